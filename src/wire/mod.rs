//! What travels: [`datagram`]s over UDP, [`frame`]s over TCP and the control socket, [`contact`]s in both.
//! Bytes become small checked values here, at the edge, and values become bytes. strew-protocol(7) is the
//! specification.

pub mod codec;
pub mod contact;
pub mod datagram;
pub mod frame;

/// The version of the protocol, in every datagram and greeting.
pub const PROTOCOL_VERSION: u8 = 1;
