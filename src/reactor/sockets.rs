//! Binding the peer's UDP socket and TCP listener to one port.

use mio::net::{TcpListener, UdpSocket};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Tries to find a port that is free for both, where the system chooses it.
const PORT_TRIES: u32 = 16;

/// Bytes of receive buffer asked for the UDP socket: some 800 datagrams may come while a block is hashed.
const UDP_BUFFER: usize = 1 << 20;

/// The sockets that other peers reach.
pub struct Sockets {
    /// For datagrams.
    pub udp: UdpSocket,
    /// For connections.
    pub tcp: TcpListener,
    /// Where both are bound.
    pub addr: SocketAddr,
}

impl Sockets {
    /// Binds to `listen`; with port 0, TCP first and UDP on its number.
    pub fn bind(listen: SocketAddr) -> io::Result<Sockets> {
        let mut tries = if listen.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            let tcp = TcpListener::bind(listen)?;
            let addr = tcp.local_addr()?;
            match UdpSocket::bind(addr) {
                Ok(udp) => {
                    // A smaller buffer only loses more datagrams, which are sent again.
                    let _ = crate::sys::set_receive_buffer(&udp, UDP_BUFFER);
                    return Ok(Sockets { udp, tcp, addr });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Binds to all addresses of this machine: of both families, or of IPv4 where there is no IPv6.
    pub fn bind_any(port: u16) -> io::Result<Sockets> {
        let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let any4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Sockets::bind(any6).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Err(error),
            _ => Sockets::bind(any4),
        })
    }

    /// Whether it can be used for IPv4, and for IPv6. An unspecified IPv6 address is for both (ipv6(7)).
    pub fn families(&self) -> (bool, bool) {
        match self.addr.ip() {
            IpAddr::V4(_) => (true, false),
            IpAddr::V6(ip) => (ip.is_unspecified(), true),
        }
    }

    /// The address as this socket must be given it: IPv4 as v4-mapped on an IPv6 socket.
    pub fn target(&self, to: SocketAddr) -> SocketAddr {
        match (self.addr.ip(), to.ip()) {
            (IpAddr::V6(_), IpAddr::V4(ip)) => SocketAddr::from((ip.to_ipv6_mapped(), to.port())),
            _ => to,
        }
    }
}
