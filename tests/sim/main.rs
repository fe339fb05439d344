//! Whole networks in virtual time: the node that the reactor drives, without sockets, everything from one seed.
//!
//! A failure prints its seed and the command that repeats it: `STREW_SEED` is the seed of a test at hand, and
//! `STREW_SIM_SEED` of a world of which everything is drawn. `STREW_SIM_SEEDS` and `STREW_SIM_FIRST` say how many of
//! those `make sim` lives through, and from which on.

mod absent;
mod access;
mod again;
mod churn;
mod client;
mod counts;
mod crowd;
mod drawn;
mod fetches;
mod files;
mod hostile;
mod latencies;
mod links;
mod lookups;
mod memory;
mod network;
mod passing;
mod peers;
mod plan;
mod providers;
mod renewal;
mod room;
mod sources;
mod stranger;
mod streams;
mod survival;
mod tables;
mod trace;
mod tracer;
mod troubles;
mod upkeep;
mod villains;
mod watch;
mod world;
