//! strew: a peer-to-peer file store.
//!
//! The library is the program; `main.rs` only calls [`cmd::main`]. Modules point down, never up:
//!
//! ```text
//! main -> cmd                  arguments, terminal, files, exit status
//!           |
//!        reactor               sockets, clock, signals (tests/sim drives the same node)
//!           |
//!         node                 one state machine: inputs in, outputs out
//!           |
//!     keep    fetch            placing, passing on, counting, upkeep | locating, choosing sources
//!           |
//!  dht   transfer   store      machines; only the pack touches a disk
//!           |
//!  block  listing  wire  id  cell  digest  histogram  limits  meter  time  timers  rng
//! ```
//!
//! Everything below `reactor` is free of I/O, of the clock and of entropy (the pack's disk apart): it is
//! given them, so that a simulator can run the same code on a made-up network.

pub mod block;
pub mod cell;
pub mod cmd;
pub mod dht;
pub mod digest;
pub mod fetch;
pub mod histogram;
pub mod id;
pub mod keep;
pub mod limits;
pub mod listing;
pub mod meter;
pub mod node;
pub mod reactor;
pub mod rng;
pub mod store;
pub mod sys;
pub mod time;
pub mod timers;
pub mod transfer;
pub mod wire;
