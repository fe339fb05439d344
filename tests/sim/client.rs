//! A client's side of the control frames, in virtual time: what `share` and `fetch` say to their peer.

use crate::streams::StreamId;
use crate::world::{PeerId, World};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use strew::block::address::Address;
use strew::block::decode::Decoder;
use strew::block::encode::Encoder;
use strew::block::{Block, Form};
use strew::id::{BlockId, NodeKey};
use strew::limits::{LEAVES_AHEAD_MAX, LIFETIME_MAX, OFFER_MAX};
use strew::time::Instant;
use strew::wire::frame::{
    Counted, Frame, FrameDecoder, Hello, MissingReason, Own, PeerRole, Settled, Wanted,
};

/// Blocks that a share has given to its peer and that are not yet answered, at most.
const ADDS_MAX: usize = 16;

/// Bytes of blocks that a fetch asks for ahead.
const BUFFER: usize = 4 << 20;

/// Blocks that a client asks for at once, as `fetch` does. To a file it writes each where it belongs, so that none but
/// those far behind wait for the first that has not come.
const BLOCKS_AT_ONCE: usize = 64;

/// Which client: its place in the order of their coming.
pub type ClientId = usize;

/// What a client is there for.
enum Task {
    Share {
        encoder: Encoder,
        rest: Vec<u8>,
        /// More may come, as from a pipe.
        is_open: bool,
        settling: bool,
    },
    /// Blocks that are of no file.
    Place {
        blocks: Vec<Block>,
        adding: usize,
    },
    Fetch {
        decoder: Decoder,
        data: Vec<u8>,
    },
    Blocks {
        /// What has not been asked for, each with a block that must have come before.
        rest: VecDeque<(BlockId, Option<BlockId>)>,
        /// What has been, from the first on that has not come.
        asked: VecDeque<BlockId>,
        /// How many of them have not come.
        outstanding: usize,
        came: BTreeMap<BlockId, Duration>,
    },
    Count {
        waiting: usize,
        counted: Vec<Counted>,
    },
    Pin,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Shared(Address, Settled),
    Placed(Settled),
    Fetched(Vec<u8>),
    /// When each block came, from the beginning.
    Came(BTreeMap<BlockId, Duration>),
    Missing(MissingReason, u32),
    Counted(Vec<Counted>),
    Pinned,
    Failed(String),
}

pub struct Client {
    pub stream: StreamId,
    greeting: Vec<Frame>,
    frames: FrameDecoder,
    task: Task,
    began: Instant,
    /// What came of it, and how long it took.
    pub outcome: Option<(Outcome, Duration)>,
}

impl World {
    /// Begins to share a file through a peer.
    pub fn begin_share(&mut self, peer: PeerId, data: &[u8], copies: u8) -> ClientId {
        let client = self.begin_pipe(peer, copies);
        self.feed(client, data, false);
        client
    }

    /// Begins to share through a peer what [`World::feed`] gives.
    pub fn begin_pipe(&mut self, peer: PeerId, copies: u8) -> ClientId {
        let task = Task::Share {
            encoder: Encoder::new(Form::Encrypted),
            rest: Vec::new(),
            is_open: true,
            settling: false,
        };
        let share = self.share_frame(copies);
        self.begin(peer, task, vec![share])
    }

    /// Gives a client that shares more of its file; whether there is more after it is said, too.
    pub fn feed(&mut self, id: ClientId, data: &[u8], more: bool) {
        let Task::Share { rest, is_open, .. } = &mut self.clients[id].task else {
            panic!("a client that shares nothing");
        };
        rest.extend_from_slice(data);
        *is_open = more;
        if self.clients[id].greeting.is_empty() {
            self.client_goes_on(id);
        }
    }

    fn share_frame(&self, copies: u8) -> Frame {
        let lifetime = self.lifetime.unwrap_or(LIFETIME_MAX);
        Frame::Share(Wanted {
            copies,
            min_copies: 1,
            own: Own::Ordinary,
            lifetime: lifetime.as_secs() as u32,
        })
    }

    /// Begins to place blocks through a peer.
    pub fn begin_place(&mut self, peer: PeerId, blocks: Vec<Block>, copies: u8) -> ClientId {
        let task = Task::Place { blocks, adding: 0 };
        let share = self.share_frame(copies);
        self.begin(peer, task, vec![share])
    }

    /// Begins to fetch a file through a peer.
    pub fn begin_fetch(&mut self, peer: PeerId, address: Address) -> ClientId {
        let task = Task::Fetch {
            decoder: Decoder::new(address, BUFFER),
            data: Vec::new(),
        };
        self.begin(peer, task, Vec::new())
    }

    /// Begins to fetch blocks through a peer, in this order, each as soon as another has come that it depends on.
    pub fn begin_blocks(
        &mut self,
        peer: PeerId,
        blocks: impl IntoIterator<Item = (BlockId, Option<BlockId>)>,
    ) -> ClientId {
        let task = Task::Blocks {
            rest: blocks.into_iter().collect(),
            asked: VecDeque::new(),
            outstanding: 0,
            came: BTreeMap::new(),
        };
        self.begin(peer, task, Vec::new())
    }

    /// How many blocks have come so far.
    pub fn came(&self, id: ClientId) -> usize {
        match &self.clients[id].task {
            Task::Blocks { came, .. } => came.len(),
            _ => 0,
        }
    }

    /// A client is interrupted.
    pub fn abandon(&mut self, id: ClientId) {
        self.client_ends(id, Outcome::Failed("interrupted".to_string()));
    }

    /// Begins to have the copies of blocks of a file counted by a peer.
    pub fn begin_count(&mut self, peer: PeerId, root: BlockId, blocks: &[BlockId]) -> ClientId {
        let task = Task::Count {
            waiting: blocks.len(),
            counted: Vec::new(),
        };
        let frames = blocks.chunks(OFFER_MAX);
        let frames = frames.map(|some| Frame::Count {
            root,
            blocks: some.to_vec(),
        });
        let frames = frames.collect();
        self.begin(peer, task, frames)
    }

    /// Has a peer pin a file, to the end, which comes within `limit`.
    pub fn pin(&mut self, peer: PeerId, root: BlockId, limit: Duration) {
        let client = self.begin(peer, Task::Pin, vec![Frame::Pin(root)]);
        let (outcome, _) = self.finish(client, limit);
        assert_eq!(outcome, Outcome::Pinned);
    }

    fn begin(&mut self, peer: PeerId, task: Task, first: Vec<Frame>) -> ClientId {
        let hello = Frame::Hello(Hello {
            key: NodeKey([0; 32]),
            port: 0,
            role: PeerRole::Client,
        });
        let client = Client {
            stream: 0,
            greeting: [vec![hello], first].concat(),
            frames: FrameDecoder::new(true),
            task,
            began: self.now,
            outcome: None,
        };
        self.add_client(peer, client)
    }

    /// Shares a file, to the end, which comes within `limit`.
    pub fn share(
        &mut self,
        peer: PeerId,
        data: &[u8],
        copies: u8,
        limit: Duration,
    ) -> (Address, Settled) {
        let client = self.begin_share(peer, data, copies);
        match self.finish(client, limit) {
            (Outcome::Shared(address, settled), _) => (address, settled),
            (other, _) => panic!("the share ended with {other:?}"),
        }
    }

    /// Fetches a file, to the end, which comes within `limit`.
    pub fn fetch(&mut self, peer: PeerId, address: Address, limit: Duration) -> Outcome {
        let client = self.begin_fetch(peer, address);
        self.finish(client, limit).0
    }

    /// Lets time pass until a client is done, which it must be within `limit`.
    pub fn finish(&mut self, client: ClientId, limit: Duration) -> (Outcome, Duration) {
        self.run_until(limit, |world| world.clients[client].outcome.is_some());
        let outcome = self.clients[client].outcome.clone();
        outcome.unwrap_or_else(|| panic!("nothing has come of it after {limit:?}"))
    }

    /// The connection is there: greets, and says what it wants.
    pub fn client_begins(&mut self, id: ClientId) {
        let frames = std::mem::take(&mut self.clients[id].greeting);
        self.client_says(id, &frames);
        self.client_goes_on(id);
    }

    fn client_says(&mut self, id: ClientId, frames: &[Frame]) {
        let mut bytes = Vec::new();
        for frame in frames {
            frame.encode(&mut bytes);
        }
        let stream = self.clients[id].stream;
        self.say(stream, 0, &bytes);
    }

    /// Asks or gives as much as may be under way, and ends when all is there.
    fn client_goes_on(&mut self, id: ClientId) {
        let mut frames = Vec::new();
        let mut outcome = None;
        match &mut self.clients[id].task {
            Task::Share {
                encoder,
                rest,
                is_open,
                settling,
            } => {
                while encoder.outstanding() < ADDS_MAX {
                    if let Some((kind, payload)) = encoder.poll_put() {
                        frames.push(Frame::Add { kind, payload });
                    } else if rest.is_empty() && *is_open {
                        break;
                    } else if rest.is_empty() {
                        encoder.finish();
                        match encoder.poll_put() {
                            Some((kind, payload)) => frames.push(Frame::Add { kind, payload }),
                            None => break,
                        }
                    } else {
                        let len = encoder.space().len().min(rest.len());
                        let next = rest.split_off(len);
                        encoder.push(&std::mem::replace(rest, next));
                    }
                }
                if encoder.outcome().is_some() && !*settling {
                    *settling = true;
                    frames.push(Frame::Settle);
                }
            }
            Task::Count { .. } | Task::Pin => {}
            Task::Place { blocks, adding } => {
                while *adding < ADDS_MAX {
                    let Some(block) = blocks.pop() else {
                        break;
                    };
                    *adding += 1;
                    let (kind, payload) = (block.kind(), block.payload().to_vec());
                    frames.push(Frame::Add { kind, payload });
                }
            }
            Task::Blocks {
                rest,
                asked,
                outstanding,
                came,
            } => {
                while let Some(&(block, needs)) = rest.front() {
                    let is_known = needs.is_none_or(|it| came.contains_key(&it));
                    let is_far = asked.len() >= LEAVES_AHEAD_MAX;
                    if *outstanding >= BLOCKS_AT_ONCE || is_far || !is_known {
                        break;
                    }
                    rest.pop_front();
                    frames.push(Frame::Fetch(block));
                    asked.push_back(block);
                    *outstanding += 1;
                }
                if rest.is_empty() && asked.is_empty() {
                    outcome = Some(Outcome::Came(std::mem::take(came)));
                }
            }
            Task::Fetch { decoder, data } => {
                loop {
                    let mut idle = true;
                    while let Some((offset, bytes)) = decoder.poll_data() {
                        assert_eq!(offset, data.len() as u64, "the data comes in order");
                        data.extend_from_slice(&bytes);
                        idle = false;
                    }
                    while let Some(block) = decoder.poll_want() {
                        frames.push(Frame::Fetch(block));
                        idle = false;
                    }
                    if idle {
                        break;
                    }
                }
                if decoder.is_done() {
                    outcome = Some(Outcome::Fetched(std::mem::take(data)));
                }
            }
        }
        if !frames.is_empty() {
            self.client_says(id, &frames);
        }
        if let Some(outcome) = outcome {
            self.client_ends(id, outcome);
        }
    }

    fn client_ends(&mut self, id: ClientId, outcome: Outcome) {
        let took = self.now.since(self.clients[id].began);
        self.clients[id].outcome = Some((outcome, took));
        let stream = self.clients[id].stream;
        self.close_end(stream, 0);
    }

    /// Bytes from the peer.
    pub fn client_reads(&mut self, id: ClientId, mut bytes: &[u8]) {
        while self.clients[id].outcome.is_none() {
            let frame = self.clients[id].frames.take(&mut bytes);
            match frame.expect("a peer sends its client no nonsense") {
                Some(frame) => self.client_hears(id, frame),
                None => return,
            }
        }
    }

    fn client_hears(&mut self, id: ClientId, frame: Frame) {
        let took = self.now.since(self.clients[id].began);
        let outcome = match (frame, &mut self.clients[id].task) {
            (Frame::Hello(_) | Frame::Progress { .. } | Frame::Awaiting { .. }, _) => None,
            (Frame::Added(block), Task::Share { encoder, .. }) => {
                encoder.handle_put(block);
                None
            }
            (Frame::Added(_), Task::Place { blocks, adding }) => {
                *adding -= 1;
                if blocks.is_empty() && *adding == 0 {
                    self.client_says(id, &[Frame::Settle]);
                }
                None
            }
            (Frame::Settled(settled), Task::Place { .. }) => Some(Outcome::Placed(settled)),
            (Frame::Settled(settled), Task::Share { encoder, .. }) => {
                let address = encoder.outcome().expect("settled after the root was added");
                Some(Outcome::Shared(address, settled))
            }
            (Frame::Block { id, kind, payload }, Task::Fetch { decoder, .. }) => {
                // A real client trusts its peer; here it is the peer that is tested.
                let block = Block::verify(id, kind, payload);
                let block = block.expect("a peer passes on no wrong block");
                decoder.handle_block(block).expect("the tree is sound");
                None
            }
            (
                Frame::Block { id, kind, payload },
                Task::Blocks {
                    asked,
                    outstanding,
                    came,
                    ..
                },
            ) => {
                Block::verify(id, kind, payload).expect("a peer passes on no wrong block");
                came.insert(id, took);
                *outstanding -= 1;
                while asked.front().is_some_and(|first| came.contains_key(first)) {
                    asked.pop_front();
                }
                None
            }
            (Frame::Missing { reason, asked, .. }, Task::Fetch { .. } | Task::Blocks { .. }) => {
                Some(Outcome::Missing(reason, asked))
            }
            (Frame::Counted(some), Task::Count { waiting, counted }) => {
                *waiting -= some.len();
                counted.extend(some);
                (*waiting == 0).then(|| Outcome::Counted(std::mem::take(counted)))
            }
            (Frame::Pinning { .. }, Task::Pin) => None,
            (Frame::Pinned { .. }, Task::Pin) => Some(Outcome::Pinned),
            (Frame::Missing { reason, asked, .. }, Task::Pin) => {
                Some(Outcome::Missing(reason, asked))
            }
            (Frame::Failed { text, .. }, _) => Some(Outcome::Failed(text)),
            (other, _) => panic!("a frame that nobody waits for: {other:?}"),
        };
        match outcome {
            Some(outcome) => self.client_ends(id, outcome),
            None => self.client_goes_on(id),
        }
    }

    /// The peer has ended the connection.
    pub fn client_is_left(&mut self, id: ClientId) {
        if self.clients[id].outcome.is_none() {
            self.client_ends(id, Outcome::Failed("the peer is gone".to_string()));
        }
    }
}
