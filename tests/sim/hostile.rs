//! Peers that are honest about what they hold and treat connections badly: scripts at the level of frames.

use crate::streams::StreamId;
use crate::world::{PeerId, World};
use strew::block::{Block, Form, Kind, Role};
use strew::wire::frame::{Answer, Frame, Hello, PeerRole};

/// How a peer treats the connections that others open to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// As a node does.
    Honest,
    /// Never says a word.
    Mute,
    /// Greets, and never answers anything.
    Silent,
    /// Answers a GET with other bytes.
    Lying,
    /// Ends the connection when it is asked for something.
    Resetting,
    /// Says that it has not what it says it has.
    Denying,
    /// As a node does, but passes nothing on.
    Hoarding,
    /// Takes every block and stores none; answers a GET with other bytes.
    Robbing,
}

impl World {
    /// What a peer is made to hear of what is said to it: all frames that are whole.
    pub fn misheard(&mut self, stream: StreamId, end: usize, mut bytes: &[u8]) -> Vec<u8> {
        let mut heard = Vec::new();
        while let Some(both) = self.streams.get_mut(&stream) {
            let frame = both.ends[end].decoder.take(&mut bytes);
            match frame.expect("a node sends no nonsense") {
                Some(mut frame) => {
                    if let Frame::Put { copies, .. } = &mut frame {
                        *copies = 0;
                    }
                    frame.encode(&mut heard);
                }
                None => break,
            }
        }
        heard
    }

    /// Bytes for a scripted end of a stream.
    pub fn script_reads(&mut self, peer: PeerId, stream: StreamId, end: usize, mut bytes: &[u8]) {
        while let Some(both) = self.streams.get_mut(&stream) {
            let frame = both.ends[end].decoder.take(&mut bytes);
            match frame.expect("a node sends no nonsense") {
                Some(frame) => self.script_hears(peer, stream, end, frame),
                None => return,
            }
        }
    }

    fn script_hears(&mut self, peer: PeerId, stream: StreamId, end: usize, frame: Frame) {
        let manner = self.peers[peer].manner;
        let answer = match frame {
            _ if manner == Manner::Mute => return,
            Frame::Offer(offered) if manner == Manner::Robbing => {
                Frame::Want(vec![Answer::Want; offered.len()])
            }
            Frame::Put {
                id,
                kind,
                lifetime,
                payload,
                ..
            } => {
                Block::verify(id, kind, payload).expect("a node sends what it says it sends");
                match manner {
                    Manner::Robbing => Frame::Stored { id, lifetime },
                    _ => return,
                }
            }
            Frame::Hello(_) if end == 0 => return,
            Frame::Hello(_) => Frame::Hello(Hello {
                key: self.peers[peer].key,
                port: self.peers[peer].born.addr.port(),
                role: PeerRole::Peer,
            }),
            Frame::Get(id) => match manner {
                Manner::Resetting => return self.close_end(stream, end),
                Manner::Denying => Frame::Absent(id),
                Manner::Lying | Manner::Robbing => Frame::Block {
                    id,
                    kind: Kind {
                        role: Role::Leaf,
                        form: Form::Encrypted,
                    },
                    payload: self.rng.bytes::<100>().to_vec(),
                },
                Manner::Honest | Manner::Hoarding | Manner::Mute | Manner::Silent => return,
            },
            _ => return,
        };
        let mut bytes = Vec::new();
        answer.encode(&mut bytes);
        self.say(stream, end, &bytes);
    }
}
