//! Datagrams sent and received many at a time: half of what a small one costs is the way into the system and back.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::ptr;

/// Datagrams passed by one call at most.
pub const MANY: usize = 16;
/// Bytes of one that are read; what is longer is cut, and still longer than any may be.
const SIZE: usize = 2048;

type Storage = libc::sockaddr_storage;

/// Datagrams that have been received, at most [`MANY`].
pub struct Inbox {
    bytes: Box<[[u8; SIZE]; MANY]>,
    /// How long each is, and from where.
    heads: Vec<(usize, SocketAddr)>,
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox {
            bytes: Box::new([[0; SIZE]; MANY]),
            heads: Vec::with_capacity(MANY),
        }
    }
}

impl Inbox {
    /// Reads what has come to a socket, in the place of what was here. There may be more until it fails by `WouldBlock`.
    /// Other errors: what ICMP said of one sent earlier, and those of recvmmsg(2).
    pub fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<()> {
        self.heads.clear();
        // Safe: all zeros are valid for these structures of numbers and pointers.
        let mut addrs: [Storage; MANY] = unsafe { mem::zeroed() };
        let mut messages: [libc::mmsghdr; MANY] = unsafe { mem::zeroed() };
        let mut parts: [libc::iovec; MANY] = unsafe { mem::zeroed() };
        for (nth, message) in messages.iter_mut().enumerate() {
            parts[nth].iov_base = self.bytes[nth].as_mut_ptr().cast();
            parts[nth].iov_len = SIZE;
            message.msg_hdr.msg_name = ptr::from_mut(&mut addrs[nth]).cast();
            message.msg_hdr.msg_namelen = mem::size_of::<Storage>() as libc::socklen_t;
            message.msg_hdr.msg_iov = &mut parts[nth];
            message.msg_hdr.msg_iovlen = 1;
        }
        // Safe: every message has one part and room for one address, which live until the call is over.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                MANY as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let received = messages.iter().zip(&addrs).take(count as usize);
        self.heads.extend(received.map(|(message, addr)| {
            let len = (message.msg_len as usize).min(SIZE);
            (len, from_storage(addr).unwrap_or(nowhere))
        }));
        Ok(())
    }

    /// What has been received, in the order of coming.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let datagrams = self.heads.iter().zip(self.bytes.iter());
        datagrams.map(|(&(len, from), bytes)| (from, &bytes[..len]))
    }
}

/// Sends these, of which at most the first [`MANY`]; how many of them have been. Errors: those of sendmmsg(2), of the
/// first; of a later one that cannot be sent the next call tells.
pub fn send(socket: &impl AsRawFd, datagrams: &[(SocketAddr, Vec<u8>)]) -> io::Result<usize> {
    // Safe: all zeros are valid for these structures of numbers and pointers.
    let mut addrs: [Storage; MANY] = unsafe { mem::zeroed() };
    let mut messages: [libc::mmsghdr; MANY] = unsafe { mem::zeroed() };
    let mut parts: [libc::iovec; MANY] = unsafe { mem::zeroed() };
    let count = datagrams.len().min(MANY);
    for (nth, (to, payload)) in datagrams.iter().take(count).enumerate() {
        let header = &mut messages[nth].msg_hdr;
        header.msg_namelen = to_storage(to, &mut addrs[nth]);
        header.msg_name = ptr::from_mut(&mut addrs[nth]).cast();
        parts[nth].iov_base = payload.as_ptr().cast_mut().cast();
        parts[nth].iov_len = payload.len();
        header.msg_iov = &mut parts[nth];
        header.msg_iovlen = 1;
    }
    // Safe: every one of these messages has one part and an address of the length said, which live until the call is
    // over, and the system only reads the parts.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT as _,
        )
    };
    match sent < 0 {
        true => Err(io::Error::last_os_error()),
        false => Ok(sent as usize),
    }
}

/// Writes an address as the system wants it; its length there.
fn to_storage(addr: &SocketAddr, storage: &mut Storage) -> libc::socklen_t {
    // Safe: a storage is large enough and aligned for an address of either family.
    match addr {
        SocketAddr::V4(addr) => {
            let place: *mut libc::sockaddr_in = ptr::from_mut(storage).cast();
            let raw = unsafe { &mut *place };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = addr.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(addr.ip().octets());
            mem::size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(addr) => {
            let place: *mut libc::sockaddr_in6 = ptr::from_mut(storage).cast();
            let raw = unsafe { &mut *place };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = addr.port().to_be();
            raw.sin6_flowinfo = addr.flowinfo();
            raw.sin6_addr.s6_addr = addr.ip().octets();
            raw.sin6_scope_id = addr.scope_id();
            mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// Reads an address that the system has written; `None` of another family.
fn from_storage(storage: &Storage) -> Option<SocketAddr> {
    // Safe: a storage is large enough and aligned for an address of either family, and any bytes make one.
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            let raw: &libc::sockaddr_in = unsafe { &*ptr::from_ref(storage).cast() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            let addr = SocketAddrV4::new(ip, u16::from_be(raw.sin_port));
            Some(addr.into())
        }
        libc::AF_INET6 => {
            let raw: &libc::sockaddr_in6 = unsafe { &*ptr::from_ref(storage).cast() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            let addr = SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id);
            Some(addr.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::UdpSocket;

    fn socket(at: &str) -> UdpSocket {
        let socket = UdpSocket::bind(at).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    #[test]
    fn many_are_sent_and_received_whole_in_their_order_by_either_family() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(sender) = UdpSocket::bind(at) else {
                continue;
            };
            let receiver = socket(at);
            let to = receiver.local_addr().unwrap();
            let datagrams: Vec<(SocketAddr, Vec<u8>)> =
                (0..MANY + 4).map(|n| (to, vec![n as u8; n * 70])).collect();
            assert_eq!(send(&sender, &datagrams).unwrap(), MANY);
            assert_eq!(send(&sender, &datagrams[MANY..]).unwrap(), 4);
            let mut inbox = Inbox::default();
            let mut received = Vec::new();
            let from = sender.local_addr().unwrap();
            for count in [MANY, 4] {
                inbox.receive(&receiver).unwrap();
                assert_eq!(inbox.iter().count(), count);
                for (sender, payload) in inbox.iter() {
                    assert_eq!(sender, from);
                    received.push((to, payload.to_vec()));
                }
            }
            assert_eq!(received, datagrams);
            let error = inbox.receive(&receiver).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(inbox.iter().count(), 0);
        }
    }

    #[test]
    fn one_that_cannot_be_sent_is_told_of_when_it_is_the_first() {
        let (sender, receiver) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let to = receiver.local_addr().unwrap();
        let datagrams = [1, 1 << 16, 1].map(|len| (to, vec![7; len]));
        assert_eq!(send(&sender, &datagrams).unwrap(), 1);
        assert!(send(&sender, &datagrams[1..]).is_err());
        assert_eq!(send(&sender, &datagrams[2..]).unwrap(), 1);
        assert_eq!(send(&sender, &[]).unwrap(), 0);
        let mut inbox = Inbox::default();
        inbox.receive(&receiver).unwrap();
        assert_eq!(inbox.iter().count(), 2);
    }

    #[test]
    fn one_that_is_too_long_is_cut() {
        let (sender, receiver) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let to = receiver.local_addr().unwrap();
        assert_eq!(send(&sender, &[(to, vec![7; 9000])]).unwrap(), 1);
        let mut inbox = Inbox::default();
        inbox.receive(&receiver).unwrap();
        let lens: Vec<usize> = inbox.iter().map(|it| it.1.len()).collect();
        assert_eq!(lens, [SIZE]);
    }
}
