//! Whole networks in virtual time: the node that the reactor drives, without sockets, everything from one seed.
//!
//! A failure prints its seed and the command that repeats it.

mod client;
mod counts;
mod files;
mod hostile;
mod lookups;
mod memory;
mod network;
mod peers;
mod room;
mod stranger;
mod tables;
mod tracer;
mod upkeep;
mod world;
