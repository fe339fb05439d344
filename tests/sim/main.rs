//! Whole networks in virtual time: the node that the reactor drives, without sockets, everything from one seed.
//!
//! A failure prints its seed and the command that repeats it.

mod client;
mod counts;
mod files;
mod hostile;
mod lookups;
mod network;
mod peers;
mod room;
mod stranger;
mod survival;
mod tracer;
mod upkeep;
mod world;
