//! How values are written on a command line and in settings: sizes, times, addresses with ports.

use std::ops::Range;
use std::time::Duration;

/// A size in bytes: a number, with K, M, G or T for powers of 1024.
pub fn size(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        b'T' | b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits(number)?.checked_mul(1 << shift)
}

/// A time: a number with s, m, h or d; plain seconds without.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, seconds) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3600),
        b'd' => (&text[..text.len() - 1], 86_400),
        _ => (text, 1),
    };
    // Longer ones would overflow the clock.
    let seconds = digits(number)?
        .checked_mul(seconds)
        .filter(|&seconds| seconds < 1 << 32)?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Whether it is a host, or an address, IPv6 ones in brackets, with a port.
pub fn is_host_port(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((host, port)) => {
            let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
            !host.is_empty() && !bare_v6 && port.parse::<u16>().is_ok_and(|port| port != 0)
        }
        None => false,
    }
}

/// Bytes of a file: the first and the last of them, or the first and all that follow.
pub fn range(text: &str) -> Option<Range<u64>> {
    let (first, last) = text.split_once('-')?;
    let first = digits(first)?;
    let end = match last {
        "" => u64::MAX,
        last => digits(last)?.checked_add(1)?,
    };
    (first < end).then_some(first..end)
}

/// Yes or no.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "yes" | "true" | "1" => Some(true),
        "no" | "false" | "0" => Some(false),
        _ => None,
    }
}

/// Whether it says what to log: a level, or one for a part of the program, or several of these with commas between.
pub fn is_log_filter(text: &str) -> bool {
    text.split(',').all(|part| {
        let (name, level) = part.split_once('=').unwrap_or(("strew", part));
        !name.is_empty() && level.parse::<log::LevelFilter>().is_ok()
    })
}

/// A number of digits only: no sign, no space.
fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_and_nonsense_is_not() {
        assert_eq!(size("10M"), Some(10 << 20));
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("2g"), Some(2 << 30));
        for bad in [
            "",
            "M",
            "-1",
            "+1",
            "1.5G",
            "10X",
            "99999999999999999999",
            "99999999T",
            "1 K",
            "٣",
        ] {
            assert_eq!(size(bad), None, "{bad}");
        }
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("30d"), Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(duration("7"), Some(Duration::from_secs(7)));
        for bad in ["", "s", "0s", "-5s", "5y", "99999999999d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn ranges_have_a_first_and_perhaps_a_last_byte() {
        assert_eq!(range("0-0"), Some(0..1));
        assert_eq!(range("5-"), Some(5..u64::MAX));
        for bad in [
            "",
            "-",
            "-5",
            "5",
            "5-4",
            "a-",
            "1-b",
            "0-18446744073709551615",
            "+1-2",
        ] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }

    #[test]
    fn log_filters_are_levels_of_all_or_of_parts() {
        for good in [
            "warn",
            "DEBUG",
            "off",
            "warn,strew::dht=trace",
            "strew=info",
        ] {
            assert!(is_log_filter(good), "{good}");
        }
        for bad in [
            "",
            "wran",
            "warn,",
            "warn,x=loud",
            "=warn",
            "strew::dht",
            "a=b=warn",
        ] {
            assert!(!is_log_filter(bad), "{bad}");
        }
    }

    #[test]
    fn peers_are_host_and_port() {
        for good in [
            "192.0.2.1:1",
            "host.example:7873",
            "[::1]:9",
            "localhost:65535",
        ] {
            assert!(is_host_port(good), "{good}");
        }
        for bad in [
            "",
            "host",
            ":7873",
            "host:",
            "host:0",
            "host:65536",
            "::1:9",
            "host:x",
        ] {
            assert!(!is_host_port(bad), "{bad}");
        }
    }
}
