//! System calls for which the standard library has no safe wrapper, each with one here. Nothing else in the
//! program but the pack's map and lock is `unsafe`.

pub mod datagrams;

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::time::Duration;

/// What an error says, without the number that the standard library adds to the system's words.
pub fn plain(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// 32 bytes that nobody can guess.
pub fn entropy() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The writing end of the pipe that signals are turned into.
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn write_signal(signal: libc::c_int) {
    let byte = signal as u8;
    // SAFETY: write is safe in a signal handler, and the pointer is to one byte on the stack. A full pipe
    // already says that there was a signal.
    unsafe {
        libc::write(
            SIGNAL_PIPE.load(Ordering::Relaxed),
            (&raw const byte).cast(),
            1,
        )
    };
    if signal != libc::SIGHUP {
        // The next one ends the process at once.
        default_signals();
    }
}

/// Has SIGTERM and SIGINT end the process at once.
fn default_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: signal is safe in a signal handler, and no handler is set.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// From now on SIGHUP, and the first SIGTERM or SIGINT, write their number, as one byte, to the pipe whose reading end
/// this is; the second of these ends the process at once. And a file
/// that may grow no more (`ulimit -f`) is an error of the write, not the end. To be called once in a process.
pub fn signal_pipe() -> io::Result<OwnedFd> {
    let mut fds: [RawFd; 2] = [0; 2];
    // SAFETY: the kernel fills in the two descriptors, which belong to nobody else.
    let (reader, writer) = unsafe {
        check(libc::pipe2(
            fds.as_mut_ptr(),
            libc::O_CLOEXEC | libc::O_NONBLOCK,
        ))?;
        (OwnedFd::from_raw_fd(fds[0]), fds[1])
    };
    SIGNAL_PIPE.store(writer, Ordering::Relaxed);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the action is zeroed, which is valid, and the handler only calls write.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = write_signal as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            check(libc::sigaction(signal, &action, std::ptr::null_mut()))?;
        }
    }
    // SAFETY: no handler is set.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    Ok(reader)
}

/// Signals that end a process, or have it read its settings again, do nothing from now on.
pub fn ignore_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: no handler is set.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Ends the process as SIGPIPE would have: the reader of our output has gone.
pub fn die_by_sigpipe() -> ! {
    // SAFETY: restores the default action and raises; no memory is touched.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::raise(libc::SIGPIPE);
    }
    // Only if the signal is blocked.
    std::process::exit(141);
}

/// Makes a command the leader of a session of its own when it starts: no terminal, no signals from one.
pub fn in_own_session(command: &mut Command) {
    // SAFETY: setsid is safe to call between fork and exec.
    unsafe {
        command.pre_exec(|| check(libc::setsid()).map(|_| ()));
    }
}

/// The process and the user at the other end of a Unix socket.
pub fn peer_credentials(socket: RawFd) -> io::Result<(u32, u32)> {
    // SAFETY: the buffer is of the type and length that the option has.
    unsafe {
        let mut credentials: libc::ucred = std::mem::zeroed();
        let mut len = std::mem::size_of::<libc::ucred>() as libc::socklen_t;
        check(libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &mut len,
        ))?;
        Ok((credentials.pid as u32, credentials.uid))
    }
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// Reading will not block: there is something, or the end.
    pub read: bool,
    /// Writing will not block.
    pub write: bool,
}

/// Whether standard error is the journal of systemd, which says so in `$JOURNAL_STREAM` (systemd.exec(5)).
pub fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let metadata = stderr.and_then(|stderr| stderr.metadata());
    metadata.is_ok_and(|it| stream == format!("{}:{}", it.dev(), it.ino()))
}

/// Columns of the terminal behind a descriptor; `None` if there is none, or it does not say.
pub fn terminal_width(fd: RawFd) -> Option<usize> {
    // SAFETY: the structure is of the type that the request has, borrowed for the length of the call.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        check(libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size)).ok()?;
        size
    };
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Waits until a descriptor is ready to be read or written, whichever is wanted, or the time is over. A signal
/// ends the wait early.
pub fn wait_for(
    fd: RawFd,
    read: bool,
    write: bool,
    timeout: Option<Duration>,
) -> io::Result<Ready> {
    let mut events = 0;
    if read {
        events |= libc::POLLIN;
    }
    if write {
        events |= libc::POLLOUT;
    }
    let mut poll = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // Rounded up: a wait of less than a millisecond would be none.
    let millis = timeout.map_or(-1, |timeout| {
        libc::c_int::try_from(timeout.as_millis() + 1).unwrap_or(libc::c_int::MAX)
    });
    // SAFETY: the pointer is to one structure, borrowed for the length of the call.
    match unsafe { check(libc::poll(&mut poll, 1, millis)) } {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
        Err(_) => poll.revents = 0,
        Ok(_) => {}
    }
    let over = poll.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0;
    Ok(Ready {
        read: read && (over || poll.revents & libc::POLLIN != 0),
        write: write && (over || poll.revents & libc::POLLOUT != 0),
    })
}

/// Whether a process of this id runs.
pub fn is_alive(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return false;
    };
    // SAFETY: signal 0 sends nothing.
    let result = unsafe { check(libc::kill(pid, 0)) };
    pid > 0 && result.map_or_else(|error| error.raw_os_error() == Some(libc::EPERM), |_| true)
}

/// The user this process acts as.
pub fn effective_uid() -> u32 {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::geteuid() }
}

/// Asks for a socket receive buffer of so many bytes; the system may give less.
pub fn set_receive_buffer(socket: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    let bytes = bytes as libc::c_int;
    // SAFETY: the value is of the type and length that the option has.
    unsafe {
        check(libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const bytes).cast(),
            std::mem::size_of::<libc::c_int>() as libc::socklen_t,
        ))?;
    }
    Ok(())
}

/// Bytes that a user without privileges can still write to the file system of this path; all there could be where
/// the file system keeps no account of its space.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends in a zero byte and the buffer is of the right type.
    unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        check(libc::statvfs(path.as_ptr(), &mut stat))?;
        Ok(match stat.f_blocks {
            0 => u64::MAX,
            _ => stat.f_bavail as u64 * stat.f_frsize as u64,
        })
    }
}

/// Whether this process may make files in a directory; the system's reason if not.
pub fn check_writable(dir: &Path) -> io::Result<()> {
    let dir = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: the path ends in a zero byte.
    unsafe { check(libc::access(dir.as_ptr(), libc::W_OK | libc::X_OK)) }?;
    Ok(())
}

/// Waits until all that was written to the file system of a file is safe.
pub fn sync_file_system(file: &File) -> io::Result<()> {
    // SAFETY: takes no pointers; the descriptor is open as long as `file`.
    unsafe { check(libc::syncfs(file.as_raw_fd())) }?;
    Ok(())
}

/// Renames what nothing of the new name is in the way of; [`io::ErrorKind::AlreadyExists`] otherwise.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (old, new) = (
        CString::new(from.as_os_str().as_bytes())?,
        CString::new(to.as_os_str().as_bytes())?,
    );
    let here = libc::AT_FDCWD;
    let flags = libc::RENAME_NOREPLACE;
    // SAFETY: both paths end in a zero byte.
    let renamed = unsafe {
        check(libc::renameat2(
            here,
            old.as_ptr(),
            here,
            new.as_ptr(),
            flags,
        ))
    };
    match renamed {
        // A kernel or a file system that does not know the flag.
        Err(error) if [Some(libc::EINVAL), Some(libc::ENOSYS)].contains(&error.raw_os_error()) => {
            match std::fs::symlink_metadata(to) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => std::fs::rename(from, to),
            }
        }
        renamed => renamed.map(drop),
    }
}

/// Writes some of the slices' bytes at this offset, and says how many.
pub fn write_vectored_at(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let offset = libc::off_t::try_from(offset).map_err(too_large)?;
    let count = slices.len() as libc::c_int;
    // SAFETY: an `IoSlice` has the layout of an `iovec` (its documentation promises it), `count` of them are
    // borrowed for the length of the call, and the descriptor is open as long as `file`.
    let written = unsafe {
        let slices = slices.as_ptr().cast::<libc::iovec>();
        libc::pwritev(file.as_raw_fd(), slices, count, offset)
    };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// Starts writing these bytes back without waiting for them. Only a hint: an error of the disk is kept by the
/// system for the next sync, which reports it; so nothing is lost by not looking here.
pub fn start_write_back(file: &File, offset: u64, len: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) {
        // SAFETY: takes no pointers; the descriptor is open as long as `file`.
        unsafe {
            libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE)
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, len);
}

/// Starts reading these bytes into the system's cache, without waiting for them. Only a hint.
pub fn start_reading(file: &File, offset: u64, len: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) {
        // SAFETY: takes no pointers; the descriptor is open as long as `file`.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, len, libc::POSIX_FADV_WILLNEED) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, len);
}

/// Pages that [`is_resident`] looks at most: a block's and two.
const RESIDENT_PAGES_MAX: usize = 128;

/// Whether the system holds all pages of mapped bytes in memory, as they are on the disk; `None` where it does not tell,
/// or they are too many.
pub fn is_resident(bytes: &[u8]) -> Option<bool> {
    // SAFETY: takes no pointers.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
    if page == 0 || bytes.is_empty() {
        return None;
    }
    let before = bytes.as_ptr() as usize % page;
    let len = before + bytes.len();
    let mut pages = [1u8; RESIDENT_PAGES_MAX];
    if len.div_ceil(page) > pages.len() {
        return None;
    }
    // SAFETY: the pages of these bytes are mapped as long as they are borrowed; `pages` has a byte for each. No byte of
    // the map is touched.
    let told = unsafe {
        let start = bytes.as_ptr().sub(before).cast_mut();
        libc::mincore(start.cast(), len, pages.as_mut_ptr())
    };
    (told == 0).then(|| pages.iter().all(|page| page & 1 == 1))
}

/// Keeps freed memory for the next block instead of giving it back and faulting it in again for each. Costs
/// at most what was in use at the peak. Only where the allocator is glibc's.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two parameters of the allocator; no memory is touched.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 20);
    }
}

/// Has the file system set aside space for these bytes of a file, whose length stays as it is.
/// [`io::ErrorKind::Unsupported`] where it cannot.
pub fn allocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
    file_allocate(file, libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

/// Gives the space of these bytes of a file back to the file system; they read as zero from then on, and the
/// file's length stays as it is. [`io::ErrorKind::Unsupported`] where it cannot.
pub fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    file_allocate(file, mode, offset, len)
}

fn file_allocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let offset = libc::off_t::try_from(offset).map_err(too_large)?;
    let len = libc::off_t::try_from(len).map_err(too_large)?;
    // SAFETY: an open descriptor and numbers.
    let done = unsafe { check(libc::fallocate(file.as_raw_fd(), mode, offset, len)) };
    match done {
        // A kernel, or a sandbox, that does not know the call.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        done => done.map(drop),
    }
}

/// Where the next bytes of a file begin that are no hole, at this offset or after it; `None` if only a hole
/// follows.
pub fn data_after(file: &File, offset: u64) -> io::Result<Option<u64>> {
    let Ok(from) = libc::off_t::try_from(offset) else {
        return Ok(None);
    };
    // SAFETY: an open descriptor and numbers; nobody else uses the descriptor's position.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from, libc::SEEK_DATA) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// The map whose faults [`on_bus_error`] explains: where it begins, its length, and the name of its file.
static MAP_START: AtomicUsize = AtomicUsize::new(0);
static MAP_LEN: AtomicUsize = AtomicUsize::new(0);
static MAP_NAME: AtomicPtr<CString> = AtomicPtr::new(std::ptr::null_mut());

/// From now on a page of this map that cannot be read ends the process with status 1 and a message that names the
/// file and the offset, instead of silently. There is one such map at a time: a later one takes its place.
pub fn explain_faults(start: *const u8, len: usize, path: &Path) -> io::Result<()> {
    let name = Box::new(CString::new(path.as_os_str().as_bytes())?);
    MAP_LEN.store(0, Ordering::SeqCst);
    MAP_START.store(start as usize, Ordering::SeqCst);
    // The last name is not freed: a fault may come at any time.
    MAP_NAME.store(Box::into_raw(name), Ordering::SeqCst);
    MAP_LEN.store(len, Ordering::SeqCst);
    // SAFETY: the action is valid, and its handler does only what a signal handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        check(libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()))?;
    }
    Ok(())
}

/// Says which file could not be read, and where. A fault that is not the map's does what it would without this.
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the system gives valid information; `signal`, `write` and `_exit` may be called in a handler; the name
    // is never freed.
    unsafe {
        let at = (*info).si_addr() as usize;
        let start = MAP_START.load(Ordering::SeqCst);
        let name = MAP_NAME.load(Ordering::SeqCst);
        if at.wrapping_sub(start) >= MAP_LEN.load(Ordering::SeqCst) || name.is_null() {
            // The instruction is tried again, and faults again.
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        let mut digits = [0; 20];
        let parts: [&[u8]; 5] = [
            b"strew: ",
            (*name).as_bytes(),
            b": cannot be read at offset ",
            decimal(at - start, &mut digits),
            b": the file was cut short, or its disk fails; see to that, then start the peer again, and run \
              strew verify\n",
        ];
        for part in parts {
            libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len());
        }
        libc::_exit(1);
    }
}

/// The number in decimal, without memory being asked for.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[first..];
        }
    }
}
