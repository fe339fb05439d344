//! The clock: the wall clock at the start plus what the monotonic one has moved since, so that a corrected wall
//! clock does not make timers fire or wait.

use crate::time::Instant;
use std::time::{Duration, SystemTime};

/// Gives the time of the core.
pub struct Clock {
    wall: Duration,
    started: std::time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Clock {
            wall,
            started: std::time::Instant::now(),
        }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        Instant::since_epoch(self.wall + self.started.elapsed())
    }
}
