//! Black-box tests of the built program: peers and clients as processes on 127.0.0.1, each with a data directory
//! of its own, judged by exit status, standard output, standard error and the files that are left behind.

#![allow(clippy::unwrap_used)]

mod answers;
mod check;
mod completions;
mod crafted;
mod failures;
mod fairness;
mod files;
mod harness;
mod hostile;
mod injected;
mod interrupted;
mod json;
mod kills;
mod latencies;
mod life;
mod lines;
mod nonsense;
mod pages;
mod passing;
mod patience;
mod pins;
mod pipelines;
mod programs;
mod rates;
mod refused;
mod room;
mod service;
mod settings;
mod space;
mod streams;
mod talker;
mod terminal;
mod trees;
mod verify;
