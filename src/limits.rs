//! Every limit of strew, with its unit, its reason, and what happens when it is reached.
//!
//! Relations that other code relies on are checked at compile time, at the end.

use std::time::Duration;

// Blocks and files.

/// Bytes of payload in a block at most. Large enough that the cost per block (a round trip, a header, a place
/// in the index) is small beside its transfer; small enough that one is hashed in a fraction of a millisecond.
/// A longer one is refused before it is read.
pub const BLOCK_SIZE_MAX: usize = 262_144;

/// Children of a node or root at most: 64 bytes each when encrypted, so that a full node is 64 KiB.
pub const FAN_OUT: usize = 1024;

/// Bytes in a file at most: a signed 64-bit offset, as the system's files have. A longer length in a root is
/// refused; a longer stream cannot be shared.
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;

/// Nodes of each level of a tree that a reader holds or waits for at most: the one whose children it takes, and
/// the next, so that its children are known when they are wanted. At most 64 KiB each.
pub const NODES_PER_LEVEL: usize = 2;

/// Bytes in the listing of a directory at most: some half a million files. It is held in memory whole, by whoever
/// shares and whoever fetches. A directory that needs more cannot be shared, and a longer listing is refused.
pub const LISTING_MAX: usize = 32 << 20;

/// Bytes of a path in a directory at most, and of one name in it: what Linux takes (path_resolution(7)). What is longer
/// could not be made, and is refused.
pub const PATH_MAX: usize = 4095;
/// See [`PATH_MAX`].
pub const NAME_MAX: usize = 255;

/// Bytes of a symbolic link's target at most, for the same reason.
pub const LINK_TARGET_MAX: usize = 4095;

// Finding peers.

/// Contacts in a bucket, and peers in a neighbourhood (Kademlia's k; Maymounkov and Mazieres 2002, section 2.3).
pub const K: usize = 20;

/// Places that an empty queue of things to be sent or done keeps: enough for what is usual.
pub const QUEUE_KEPT: usize = 16;

/// Requests that a lookup has on their way at once, late ones not counted (Kademlia's alpha), until the
/// [`ALPHA_UNTIL`] closest have answered.
pub const ALPHA: usize = 4;

/// The same of a lookup for holders of a block: in a network of 10,000 with 8 copies it finds the first after 6.1
/// requests, where 5 at once take 10.0 and a twentieth less time.
pub const ALPHA_HOLDERS: usize = 3;

/// How many of the closest contacts that a lookup knows have to answer before it goes faster: as many as hold a block.
pub const ALPHA_UNTIL: usize = 8;

/// Requests on their way at once from then on. Before it, more would go to contacts that turn out not to be close: in a
/// network of 10,000 the 8 closest are found after asking 17, and after 20 with 5 at once all the time, which takes as
/// long.
pub const ALPHA_LATER: usize = 10;

/// Bytes in a datagram at most: fits every path's MTU without fragments, IPv6's minimum of 1,280 less headers.
/// A longer one is never sent, and dropped when it arrives.
pub const DATAGRAM_SIZE_MAX: usize = 1200;

/// Addresses in one HAVE datagram at most: 1,024 bytes of them fit a datagram. More is a malformed datagram.
pub const HAVE_MAX: usize = 32;

/// Digests in one DIGEST reply at most, as the power of two: 640 bytes of them.
pub const DIGEST_DEPTH_MAX: u8 = 5;

/// Places in one LIST reply at most: 1,144 bytes of them fit a datagram. Of more nothing is said but that.
pub const LIST_MAX: usize = 143;

/// DIGEST and LIST requests that are answered in a second at most: together some 200 ms of hashing if all are of the
/// dearest. Beyond it the rest of that second's are not answered.
pub const DIGESTS_PER_SECOND: u32 = 512;

/// Times a request is sent to a contact before it counts as unanswered.
pub const REQUEST_ATTEMPTS: u32 = 3;

/// Lookups that run at once in a node; further ones wait in order.
pub const LOOKUPS_MAX: usize = 16;

/// Requests on their way at once in a node; a lookup that wants to send more waits.
pub const REQUESTS_MAX: usize = 64;

/// Regions that are enumerated at once in a node; further ones wait in order.
pub const REGIONS_MAX: usize = 32;

/// Requests sent to enumerate one region at most: some eight do, and more only where much is made up or dead.
pub const REGION_REQUESTS_MAX: usize = 64;

/// Contacts that a lookup remembers at most, the farthest are forgotten: bounds what a peer that invents
/// contacts can make a lookup hold.
pub const LOOKUP_CONTACTS_MAX: usize = 200;

/// Longest first guess of a round trip to a contact never measured; shorter if those of others have been. Doubles with
/// each attempt, up to [`RTO_UNMEASURED_MAX`].
pub const RTO_INITIAL: Duration = Duration::from_millis(500);

/// A time-out of a contact never measured is never longer. Mostly it is a dead one that somebody named, and the
/// end of a lookup waits for it: with all attempts 2 s, in which any living one answers the first of them.
pub const RTO_UNMEASURED_MAX: Duration = Duration::from_millis(750);

/// A time-out is never shorter: a busy machine is no dead one.
pub const RTO_MIN: Duration = Duration::from_millis(150);

/// A time-out is never longer.
pub const RTO_MAX: Duration = Duration::from_secs(3);

/// Requests in a row that a contact may leave unanswered; then its bucket drops it.
pub const CONTACT_FAILURES_MAX: u8 = 3;

/// How long lookups pass over a contact that did not answer one.
pub const UNRESPONSIVE_FOR: Duration = Duration::from_secs(60);

/// Unresponsive contacts remembered at most; the first to expire is forgotten.
pub const UNRESPONSIVE_MAX: usize = 1024;

/// Contacts of one IPv4 /24 or IPv6 /56 in a bucket at most, private ranges exempt: a single network cannot
/// fill a bucket.
pub const PER_NETWORK_IN_BUCKET: usize = 2;

/// A bucket that has room and that no lookup has touched for this long is refreshed.
pub const REFRESH_AFTER: Duration = Duration::from_secs(3600);

/// A contact that has not been heard for this long is pinged.
pub const PING_AFTER: Duration = Duration::from_secs(900);

/// Length of an epoch of the address token; one is accepted in the epoch it was made in and in the next.
pub const TOKEN_EPOCH: Duration = Duration::from_secs(300);

/// Addresses given by the user to bootstrap from, and those read from the saved table, at most.
pub const SEEDS_MAX: usize = 256;

/// First and longest pause between attempts to reach a bootstrap address; it doubles, and never gives up.
pub const SEED_RETRY_FIRST: Duration = Duration::from_millis(250);
/// See [`SEED_RETRY_FIRST`].
pub const SEED_RETRY_MAX: Duration = Duration::from_secs(60);

/// How long a join attempt may take before lookups no longer wait for it.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(4);

/// Period in which a peer that is not in client-mode has its reachability checked again.
pub const REACHABILITY_PERIOD: Duration = Duration::from_secs(3600);

/// Peers whose round trips and tokens are remembered at most; then those heard least recently are forgotten.
pub const RTT_ESTIMATES_MAX: usize = 1024;

/// How long they are remembered after their last answer: the contacts of the table answer more often.
pub const RTT_ESTIMATE_FOR: Duration = Duration::from_secs(1200);

/// A peer's token is sent back to it for this long: less than it is accepted for, whenever in an epoch it was made.
pub const TOKEN_FRESH: Duration = Duration::from_secs(240);

/// Contacts that a lookup starts from at most: more than K, so that dead ones do not leave it with nobody to ask.
pub const LOOKUP_START_MAX: usize = 2 * K;

/// Addresses of one contact that a lookup tries at most: one that a stranger made up must not hide the true one.
pub const CONTACT_ADDRESSES_MAX: usize = 3;

/// How long a lookup for a block waits for further holders after the first.
pub const HOLDERS_LINGER: Duration = Duration::from_millis(300);

/// Pings to peers that may enter the table, on their way at once at most; what strangers can make us send. Beyond
/// it a stranger is not pinged.
pub const PROBES_MAX: usize = 32;

/// How often the table is looked over for contacts to ping and buckets to refresh.
pub const UPKEEP_PERIOD: Duration = Duration::from_secs(30);

/// Pings that one look over the table sends at most; the rest is left to the next.
pub const UPKEEP_PINGS_MAX: usize = 16;

/// Pause between the refresh of one bucket and the next.
pub const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// How long after its join a peer looks for itself again: then those around it know of those who joined beside it. The
/// pause grows fourfold up to [`NEAR_PERIOD`].
pub const NEAR_RETRY: Duration = Duration::from_secs(15);

/// How often a peer looks for itself, outside client-mode.
pub const NEAR_PERIOD: Duration = Duration::from_secs(900);

/// The first pause of a peer that knows fewer than [`K`]; it doubles as long as that is so.
pub const THIN_RETRY: Duration = Duration::from_secs(1);
/// Longest pause of that, and the shortest between two times that a peer looks for itself through a bootstrap
/// address: what a network needs to be one again after it was split.
pub const THIN_RETRY_MAX: Duration = Duration::from_secs(600);

/// Contacts that are asked in a lookup that only serves the table before those are passed over that are in it and know
/// of us: they would name nobody else.
pub const TELLERS: usize = 3;

/// First pause before a bootstrap address that answered in client-mode is asked again; it doubles. It may leave
/// client-mode just now, because we came.
pub const SEED_CLIENT_RETRY_FIRST: Duration = Duration::from_millis(50);

/// Saved contacts that are tried at once, and how long before the next as many: a burst of all would be lost.
pub const SAVED_AT_ONCE: usize = 10;
/// See [`SAVED_AT_ONCE`].
pub const SAVED_PAUSE: Duration = Duration::from_millis(100);

/// Peers that lately sent us a request, remembered at most; the oldest is forgotten.
pub const REQUESTERS_MAX: usize = 32;

/// Peers remembered as those to ask for DIAL_BACK at most; beyond it nobody is added.
pub const DIALERS_MAX: usize = 32;

/// Peers of one network (IPv4 /24, IPv6 /56) among them at most, private ranges exempt: those of a single network
/// cannot keep all others from being asked.
pub const DIALERS_PER_NETWORK: usize = 2;

/// DIAL_BACK requests, and connections promised by them, waited for at once at most.
pub const DIAL_BACKS_WAITING_MAX: usize = 4;

/// How long a promised connection is waited for.
pub const DIAL_BACK_WAIT: Duration = Duration::from_secs(10);

/// First and longest pause before the same peer is asked for DIAL_BACK again; it doubles.
pub const DIAL_BACK_RETRY_FIRST: Duration = Duration::from_secs(1);
/// See [`DIAL_BACK_RETRY_FIRST`].
pub const DIAL_BACK_RETRY_MAX: Duration = Duration::from_secs(60);

/// Networks from which somebody must have connected back before a peer leaves client-mode; one peer in a private
/// range counts as enough.
pub const DIAL_BACK_NETWORKS: usize = 2;

/// Attempts that may fail when reachability is checked again; then the peer is in client-mode again.
pub const RECHECK_TRIES: u32 = 5;

/// Connections made for DIAL_BACK in [`DIAL_BACK_PERIOD`] at most, and one to each address (private ranges
/// exempt from the latter): nobody can have us knock at doors. Beyond it the answer is no.
pub const DIAL_BACKS_MAX: usize = 16;
/// Peers that have asked for DIAL_BACK remembered, so that they can be named to the next that asks. The latest.
pub const DIAL_BACK_ASKERS_MAX: usize = 16;

/// Addresses in a DIAL_BACK reply at most: enough to find one in another network.
pub const DIAL_BACK_OTHERS_MAX: usize = 4;

/// See [`DIAL_BACKS_MAX`].
pub const DIAL_BACK_PERIOD: Duration = Duration::from_secs(10);

/// Peers of another version that are reported at most, each once.
pub const OTHER_VERSIONS_MAX: usize = 64;

/// Statements of others about our own address that are remembered at most; the oldest is forgotten.
pub const OBSERVED_MAX: usize = 16;

// Connections.

/// Connections in all at most. One more is refused with a reason; idle ones go first.
pub const CONNECTIONS_MAX: usize = 256;

/// Connections that others have opened at most, of [`CONNECTIONS_MAX`]: whoever comes, some are left to be opened.
pub const INBOUND_MAX: usize = 192;

/// Connections that have come from one IPv4 address or IPv6 /56 at most, private ranges exempt: a household or a
/// small office behind one address has room, and one host cannot take all.
pub const INBOUND_PER_SOURCE: usize = 16;

/// Connections that have come from one IPv4 /24 or IPv6 /48 at most, private ranges exempt: four networks have to
/// conspire to take all.
pub const INBOUND_PER_NETWORK: usize = 48;

/// Connections of local clients at most, beside those of peers.
pub const CLIENTS_MAX: usize = 128;

/// Connections to peers that are being opened at once at most: home routers choke on more. Others wait.
pub const CONNECTING_MAX: usize = 16;

/// Bytes of a frame's fields beside a payload at most: an OFFER of [`OFFER_MAX`] addresses, or a text.
pub const FRAME_FIELDS_MAX: usize = 16_384;

/// Addresses in an OFFER at most: 36 bytes each, with their lifetimes.
pub const OFFER_MAX: usize = 256;

/// Bytes of text in a frame at most (a reason, a status page).
pub const TEXT_MAX: usize = 8192;

/// Blocks asked of one peer and not yet answered at most.
pub const GETS_PER_CONNECTION: usize = 16;

/// The same as long as it is not known how fast it gives them: one is on its way while the next is asked for.
pub const GETS_MIN: usize = 2;

/// Blocks that one peer may have asked of us, unanswered, at most: more and we stop reading from it.
pub const EGRESS_BLOCKS_MAX: usize = 64;

/// Bytes of small frames queued on a connection at most: more and we stop reading from it.
pub const EGRESS_BYTES_MAX: usize = 1 << 20;

/// Payload bytes sent to one peer by PUT and not yet acknowledged at most.
pub const PUT_WINDOW: usize = 4 << 20;

/// How long a connection may take to be opened, greeting included, from when it was begun or came.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a peer that owes us an answer may send nothing at all before its connection is closed.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a peer may owe us an answer without getting on with it, whatever else it sends, before its connection
/// is closed. Longer than a busy disk takes to store a block; shorter than a fetch waits by default.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a frame, or [`FRAME_STEP`] of one, may take to come. Half a KiB a second: what a modem's line has left for
/// each of some peers.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a frame that count as getting on with it: a block of the longest comes in 16 steps.
pub const FRAME_STEP: usize = 16_384;

/// A connection on which nobody wants anything is closed after this long.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a peer is not connected to again after it could not be, or broke the protocol.
pub const SHUN_FOR: Duration = Duration::from_secs(60);

/// A peer that is shunned as it failed is tried again after this if nobody else gives what a fetch wants: it may have been
/// our own line. As long as it takes to see that a connection cannot be had.
pub const SHUN_MIN: Duration = CONNECT_TIMEOUT;

/// How long a peer is shunned whose blocks were wrong twice.
pub const SHUN_LIAR_FOR: Duration = Duration::from_secs(3600);

/// Shunned peers remembered at most; the first to expire is forgotten.
pub const SHUNNED_MAX: usize = 1024;

// Getting and placing.

/// Copies of a block asked for by default, beside the sharer's own.
pub const COPIES_DEFAULT: u8 = 8;

/// Copies at most: the neighbourhood of a block has no more peers.
pub const COPIES_MAX: u8 = K as u8;

/// Blocks of a client's share that wait for their copies at most; more and the client's frames are not read.
pub const PLACING_MAX: usize = 4096;

/// Blocks that are being placed at once, each with a lookup or offers on their way.
pub const PLACING_AT_ONCE: usize = 256;

/// Blocks that a peer passes on for others at once: enough that the latency of one is hidden by others, and fewer than
/// clients have, who wait.
pub const PASSING_AT_ONCE: usize = 64;

/// Blocks that wait for that at most; more are not taken on.
pub const PASSING_MAX: usize = 512;

/// Blocks that upkeep gives to others at once: beside those that are passed on, whose number is in the hands of others.
pub const GIVING_AT_ONCE: usize = 64;

/// Peers that a sharer gives a block to, to be passed on: one, and another if that one is late or does not do it. With
/// more, one might as well send all copies.
pub const PASSERS_MAX: usize = 2;

/// A block whose copies have not grown in number for this long is not being passed on. Longer than a lookup, a count and
/// a transfer take over bad links; short enough that who shares a small file waits.
pub const PASS_PATIENCE: Duration = Duration::from_secs(5);

/// How long a block is waited for at most while who passes it on gets on with others.
pub const PASS_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a peer that passes a block on leaves the shares of others to them.
pub const PASS_AGAIN: Duration = Duration::from_secs(2);

/// Bytes that a peer passes on in [`QUOTA_PERIOD`] for one IPv4 /24 or IPv6 /48 at most, private ranges exempt: what
/// strangers can make it send is 12 kB/s for each network. Beyond it the sharer sends the copies itself.
pub const PASS_BUDGET: u64 = 1 << 30;

/// How long a peer that did not pass on what it was given is given nothing to pass on.
pub const UNWILLING_FOR: Duration = Duration::from_secs(600);

/// Such peers remembered at most; the first to be given something again is forgotten.
pub const UNWILLING_MAX: usize = 1024;

/// How long a question to a contact waits at most for others that can go in the same datagram, while many blocks are
/// being placed.
pub const PLACE_LINGER: Duration = Duration::from_millis(200);

/// A peer that has been known for less is given blocks only where there are not enough others.
pub const NEWCOMER_FOR: Duration = Duration::from_secs(3600);

/// A block offered or sent to a peer that has not got on with its answers for this long is offered to another as
/// well.
pub const LATE_AFTER: Duration = Duration::from_secs(5);

/// How long a peer is waited for to which no connection can be opened, since all are in use; then it counts as out of
/// reach. Longer than one may be in use without getting on.
pub const ROOM_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long placing is tried again while fewer than `--min-copies` are counted.
pub const PLACE_RETRY: Duration = Duration::from_secs(10);

/// Blocks that a client may have asked for and not been given at most.
pub const WANTS_PER_CLIENT: usize = 1024;

/// How often a client that waits for blocks is told what for: as often as somebody wants to read it.
pub const AWAITING_PERIOD: Duration = Duration::from_millis(250);

/// A block asked of a peer and not there after this long is asked of another as well. As long as none of those
/// asked sends anything, each next one has half the time of the one before, but not less than [`HEDGE_AFTER_MIN`].
pub const HEDGE_AFTER: Duration = Duration::from_secs(2);

/// See [`HEDGE_AFTER`]: with it a neighbourhood of silent holders costs 8 s, well within [`STALL_DEFAULT`], and most
/// peers that are alive have answered a new connection.
pub const HEDGE_AFTER_MIN: Duration = Duration::from_millis(250);

/// Leaves of a file that are located ahead of what a client has asked for, at least: as many as it asks for at once.
/// Then twice as many as it has wanted, so that who stops early has cost little.
pub const AHEAD_MIN: usize = 64;
/// The same at most: the children of a node.
pub const AHEAD_MAX: usize = FAN_OUT;

/// Leaves, and nodes, of a client's file whose addresses are remembered at most, beyond [`NODES_PER_LEVEL`] nodes. Of
/// more leaves the oldest are forgotten; they are looked up alone when they are wanted.
pub const PLANNED_MAX: usize = 4 * FAN_OUT;

/// How long it is believed who holds a block, and who lives in a region, before it is looked for anew.
pub const HOLDERS_FOR: Duration = Duration::from_secs(300);

/// Regions whose inhabitants are remembered at most, some 30 of 100 bytes in each; more are not.
pub const AREAS_MAX: usize = 1024;

/// Pauses between lookups for a block that some who live did not answer about begin with [`HEDGE_AFTER`] and double up
/// to this: the lines are full, and each lookup fills them more. Shorter than [`STALL_DEFAULT`], so that it is looked
/// for once more before a client gives up.
pub const LOOK_AGAIN_MAX: Duration = Duration::from_secs(16);

/// How often a block's holders are looked up again when all of them failed to give it: each finds a holder not
/// asked before or is the last, and there is room for a neighbourhood of them.
pub const RELOCATE_MAX: u32 = K as u32;

/// What is left of a block's lifetime when it is shared, and how long a holder keeps a block at most unless it is
/// asked again.
pub const LIFETIME_MAX: Duration = Duration::from_secs(30 * 86_400);

/// The part of the allotment that may be filled in [`QUOTA_PERIOD`] from one IPv4 /24 or IPv6 /48, private ranges
/// exempt: one in so many.
pub const QUOTA_PART: u64 = 20;
/// See [`QUOTA_PART`].
pub const QUOTA_PERIOD: Duration = Duration::from_secs(86_400);

/// Networks of which is known how much they have stored, at most; the least is forgotten.
pub const QUOTA_NETWORKS_MAX: usize = 4096;

/// Blocks of pinned files that are looked at in one slice of work; one of them at most is read.
pub const PIN_STEPS: usize = 256;

/// Pause between two such slices.
pub const PIN_PAUSE: Duration = Duration::from_millis(1);

/// Blocks that are fetched for one pin at once.
pub const PIN_WANTS: usize = 32;

/// How often a peer looks whether all that is pinned is here.
pub const PIN_RECHECK: Duration = Duration::from_secs(3600);

/// What a pinned file takes beyond its length: one part in so many, for nodes, headers, and what is left to move
/// blocks together.
pub const PIN_OVERHEAD: u64 = 12;

/// Blocks that a client may have asked to be counted and not been answered at most: several COUNT frames of
/// [`OFFER_MAX`], so that the next is there when one is done.
pub const COUNTS_PER_CLIENT: usize = 4096;

/// Blocks that are counted at once: enough that the contacts of a large network are asked for several in a datagram.
pub const COUNTING_AT_ONCE: usize = 256;

/// HAVEs that counting, and placing, each have on their way at most. Their answers are short, as no contacts are asked
/// for: as many fit the receive buffer of any socket.
pub const COUNT_REQUESTS_MAX: usize = 128;

/// How long a question to a contact waits at most for others that can go in the same datagram.
pub const COUNT_LINGER: Duration = Duration::from_secs(1);

/// Blocks that are released or held on in one step, when a share has ended: each is looked up.
pub const ENDINGS_PER_STEP: usize = 512;

/// Pause between two slices of the store's work in the background.
pub const WORK_PAUSE: Duration = Duration::from_millis(10);

/// Pause before it is tried again to drop blocks where more is used than allotted, and none could go.
pub const SHRINK_RETRY: Duration = Duration::from_secs(1);

// Announcements and renewal of what is pinned.

/// How long it is remembered that a peer has announced a file. Some of those who remember it leave meanwhile, and so do
/// some of those who announced: with sessions of hours, of either about half is left at the end.
pub const PROVIDER_FOR: Duration = Duration::from_secs(6 * 3600);

/// After how long a peer announces a file again: one that is lost does no harm.
pub const ANNOUNCE_PERIOD: Duration = Duration::from_secs(3 * 3600);

/// Pause between two announcements of a peer. Each is a lookup and 20 datagrams, some 26 kB sent: 220 bytes a second at
/// most, a quarter of what an idle peer may spend. Who has more pins than fit [`PROVIDER_FOR`], 180, has each of them
/// announced for a part of the time.
pub const ANNOUNCE_PAUSE: Duration = Duration::from_secs(120);

/// Announcements of one file that a peer remembers at most; then it takes no others.
pub const PROVIDERS_PER_ROOT: usize = 16;

/// Of these, from one IPv4 /24 or IPv6 /56 at most, private ranges exempt: eight networks at least have to conspire to
/// keep honest ones out, and those that are named are of several.
pub const PROVIDERS_PER_ROOT_AND_NETWORK: usize = 2;

/// Announcements that a peer remembers of one IPv4 /24 or IPv6 /56 at most, private ranges exempt: more than a peer
/// makes in [`PROVIDER_FOR`].
pub const PROVIDERS_PER_NETWORK: usize = 256;

/// Announcements that a peer remembers at most, some 200 bytes each; then it takes no others until some have expired.
pub const PROVIDERS_MAX: usize = 4096;

/// Providers named in one reply at most. A lookup hears several replies; and each name takes the place of a contact.
pub const PROVIDERS_NAMED: usize = 4;

/// Providers that a fetch or a count asks at most: enough that one that is fast is among them.
pub const PROVIDERS_USED: usize = 8;

/// Blocks of pinned files that are found due for renewal in one look at all of them, once an hour, at most; the rest is
/// found at the next. 1.4 TiB are renewed in half of a lifetime at this pace.
pub const RENEWALS_MAX: usize = 16_384;

/// Blocks that are being renewed at once: neighbours in the space of addresses, which have the same holders.
pub const RENEWING_AT_ONCE: usize = 64;

/// Pause between two times that as many are begun.
pub const RENEW_PAUSE: Duration = Duration::from_secs(10);

// Upkeep.

/// Time in which a peer looks once at all of its blocks.
pub const LOOK_PERIOD: Duration = Duration::from_secs(3600);

/// Own blocks in a leaf at most, for which it is remembered which neighbour has which: a neighbour's list of them
/// mostly fits a datagram.
pub const LEAF_MAX: usize = 128;

/// Bits by which a leaf's cell is told at most. Of more own blocks that share as many, none of which anybody makes by
/// chance, only the first [`LEAF_MAX`] are seen to.
pub const LEAF_BITS_MAX: u8 = 56;

/// Neighbours of which it is remembered what they have in one leaf: those that are, and as many that may come back.
pub const SEEN_MAX: usize = 2 * K;

/// Peers of which anything is remembered at most; that which has been no neighbour for the longest time is forgotten.
pub const UPKEEP_PEERS_MAX: usize = 512;

/// Own blocks in a region that is looked at in one go at most: a peer with a million asks each neighbour some 70 times
/// an hour.
pub const REGION_BLOCKS_MAX: u32 = 16_384;

/// Bits that a region's cell has more than that of all a peer sees to: a neighbour of some of its blocks is asked for
/// those around them.
pub const REGION_BITS: u8 = 3;

/// Neighbours that are known in a round of upkeep, and asked about one region, at most: some 60 live where 20 share one
/// bit more.
pub const NEIGHBOURS_MAX: usize = 128;

/// Requests of a look that are on their way at once at most.
pub const UPKEEP_REQUESTS_MAX: usize = 8;

/// Lists that a neighbour is asked for to learn what it has in one leaf: some 4,000 places.
pub const LISTS_PER_LEAF_MAX: usize = 64;

/// Leaves that are gone through in one slice of work: each takes some 0.1 ms.
pub const LEAVES_PER_STEP: usize = 8;

/// How long each closer holder of a block that is short of copies has to see to it before this one does.
pub const TURN: Duration = Duration::from_secs(300);

/// How long turns wait where there are [`GRACE_COPIES`]: some of those who left come back. Two periods after copies were
/// lost the closest holder has had its look and its turn all the same, and [`TURN`] for the giving.
pub const GRACE: Duration = Duration::from_secs(3300);

/// With so many copies there is time: where a tenth of the peers leaves in an hour, all six have left two hours later
/// once in some 30,000 times, if nobody has seen to those that were left meanwhile, as is done at once.
pub const GRACE_COPIES: usize = 6;

const _: () = assert!(
    GRACE.as_secs() + TURN.as_secs() <= LOOK_PERIOD.as_secs(),
    "two periods are enough"
);

/// Blocks short of copies whose turn is waited for at most. What is beyond is seen at the next look.
pub const TURNS_MAX: usize = 65_536;

/// Blocks whose turn has come, for which the neighbourhood is asked and which are given to others, at once.
pub const TURNS_AT_ONCE: usize = 64;

/// Of a neighbourhood so many, the closest, are given what is short before others: who is farther off is soon none of
/// the K closest, where peers come and go. In a simulated day of churn with sessions of 10 hours in the mean 8.7 copies
/// were moved of each block without this, 7.6 with 14, 7.1 with 11.
pub const INNER: usize = 12;

/// Blocks that are looked for at one place at most: each costs a read.
pub const AT_PLACE_MAX: usize = 16;

/// Places that are hashed in one call for a digest at most, beside those at the ends of its cell: half a millisecond.
pub const DIGEST_PLACES_PER_CALL: usize = 4096;

/// Bytes of a checkpoint that are read at most: two hundred million blocks.
pub const CHECKPOINT_MAX: u64 = 4 << 30;

/// Records after which a checkpoint is written at the earliest; then after an eighth of the blocks. To read so many
/// one by one costs an opening some milliseconds.
pub const CHECKPOINT_AFTER: u64 = 4096;

/// Records after which a checkpoint is written when the pack is closed.
pub const CHECKPOINT_AT_CLOSE: u64 = 512;

/// Stretches of pages that are given back in one slice of work, or before it is looked again whether a block fits:
/// on ext4 one takes 0.1 ms.
pub const PUNCHES_PER_SLICE: usize = 4;

/// Gaps of which it is asked in one slice of work whether they still take space, after an opening: 1 us each.
pub const GAPS_ASKED_PER_SLICE: usize = 256;

/// Bytes of them: a mebibyte, in many extents and still in the system's cache, takes up to 2 ms.
pub const PUNCH_MAX: u64 = 512 << 10;

/// Blocks that are dropped together to make room, at most, and bytes of them at least as far as they are there:
/// each time costs a sync.
pub const EVICTIONS_MAX: usize = 32;
/// See [`EVICTIONS_MAX`].
pub const EVICT_STEP: u64 = 1 << 20;

/// Bytes of a pack's copy after which it is synced, so that the last sync is short.
pub const COPY_SYNC_STEP: u64 = 4 << 20;

/// Records, gaps and statements of notes that are passed in one slice of a copy at most, whether or not they are copied,
/// and one note more: a small one takes 3 us.
pub const COPY_RECORDS_MAX: usize = 400;

/// Bytes by which the file is cut in one slice of work that a copy has replaced.
pub const CUT_STEP: u64 = 64 << 20;

/// Blocks that are looked at in one search for those that may go. What was passed over is not looked at again until
/// something changes.
pub const EVICT_SEARCH_MAX: usize = 16_384;

/// Bytes that are moved to the tail in one slice of work, to join the gaps around them.
pub const MOVE_MAX: u64 = 512 << 10;

/// Records that are moved in one slice of work at most, statements on terms included: each is looked up, which takes
/// some 2 us, and written by a call of its own.
pub const MOVE_RECORDS_MAX: usize = 500;

/// Gaps that are looked at in one slice of work for blocks to be moved.
pub const GAPS_PER_SLICE: usize = 1024;

/// Bytes that are read in one step of verification, but for a last record.
pub const VERIFY_STEP: u64 = 1 << 20;

/// Records that are looked at in one step of verification at most: a small one takes 1 us.
pub const VERIFY_RECORDS: usize = 2048;

/// Time in which a peer reads all of its pack again in the background, if it is large.
pub const SCRUB_PERIOD: Duration = Duration::from_secs(30 * 86_400);

/// Shortest pause between two steps of it: a MiB a second is noticed by nobody.
pub const SCRUB_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause between two steps of it.
pub const SCRUB_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Bytes that may wait for a client before more is verified for it.
pub const VERIFY_BACKLOG: usize = 64 << 10;

/// Time after which it is tried again to write what could not be written for want of space.
pub const NOTE_RETRY_SECS: u64 = 10;

/// Time after which it is tried again to move blocks together, or to copy the pack, where the last attempt gained
/// nothing: an hour's failures are then some looks at the gaps, or a part of a copy each.
pub const RECLAIM_RETRY_SECS: u64 = 600;

/// The smallest allotment that is accepted, in bytes.
pub const CAPACITY_MIN: u64 = 1 << 20;

/// The allotment by default, or half of the free space if that is less, in bytes.
pub const CAPACITY_DEFAULT: u64 = 10 << 30;

// The store.

/// Requests of one peer for blocks that wait to be answered at most: far more than [`GETS_PER_CONNECTION`], that it may
/// ask for by its own rules. Who asks for more is told to be gone.
pub const GETS_WAITING_MAX: usize = 256;

/// Blocks that are given in one go at most: to read one and to compare its checksum takes some 0.1 ms.
pub const GETS_AT_ONCE: usize = 4;

/// Pause before the next are, and between two looks at whether the disk has brought some: shorter than most reads take.
pub const GETS_PAUSE: Duration = Duration::from_millis(1);

/// How many of those that wait are looked at together: each takes a few microseconds.
pub const GETS_PER_LOOK: usize = 64;

/// Blocks that a peer wants and the disk is asked for at once, where they are sent one after the other: it has the next
/// while one is on its way.
pub const READ_AHEAD: usize = 4;

/// How long the disk is waited for without being asked to read at once: what it brings may be dropped again before it
/// is looked for, where memory is short.
pub const COLD_WAIT: Duration = Duration::from_millis(500);

/// Bytes written and not committed at most before a commit is begun whoever waits. Also what an opening pack
/// re-reads of its end, since only that can be torn.
pub const UNCOMMITTED_MAX: u64 = 64 << 20;

/// Bytes written and not committed from which on a commit is begun though nobody waits. Four fit [`UNCOMMITTED_MAX`]: one
/// is being synced while the next comes in.
pub const COMMIT_STEP: u64 = 16 << 20;

/// Bytes written and not committed from which on those who put blocks are not read from until the commit that is under
/// way has ended. The rest of [`UNCOMMITTED_MAX`] is for what has been read already; if that is more, the loop waits.
pub const UNCOMMITTED_HIGH: u64 = UNCOMMITTED_MAX - (16 << 20);

/// Bytes after which write-back of what was written is started, so that the sync at the end is short.
pub const WRITE_BACK_STEP: u64 = 4 << 20;

/// How long a put whose sender waits for its acknowledgement lets others join its commit.
pub const COMMIT_DELAY: Duration = Duration::from_millis(2);

/// How long anything may stay uncommitted, even if nobody waits.
pub const COMMIT_AFTER: Duration = Duration::from_secs(1);

/// Bytes charged to the allotment for a block at least: what a file system gives at least.
pub const BLOCK_CHARGE_MIN: u64 = 4096;

/// Bytes of the allotment set aside for everything in the directory but blocks: key, contacts, log, the headers of
/// checkpoints, what the file system itself needs.
pub const RESERVATION: u64 = 256 << 10;

/// Bytes charged to the allotment for the place of a block, or of a gap, in two checkpoints: 20 in each, and some
/// for pins.
pub const INDEX_CHARGE: u64 = 64;

/// Bytes of the allotment that are left free for each block, for notes on its terms, as far as there are none yet: a
/// statement takes 16, all terms may change at once, and while they are said again there are as many once more.
pub const TERMS_CHARGE: u64 = 64;

/// The same for all blocks together, so that few of them do not have their terms said again all the time.
pub const TERMS_SLACK: u64 = 16 << 10;

/// Hours by which the end of a block's lifetime is moved at least, so that a peer that is asked every hour need not
/// note it every hour.
pub const RENEWAL_MIN: u32 = 24;

/// Blocks whose terms are said again in one slice of work: half a note.
pub const RESTATED_PER_SLICE: usize = 1000;

/// Bytes that are set aside behind the last record, for notes: space comes back by notes, on a full disk, too.
pub const NOTE_RESERVE: u64 = 64 << 10;

/// Statements in a note at most, and of gaps that wait to be noted: two such notes fit [`NOTE_RESERVE`].
pub const NOTE_STATEMENTS_MAX: usize = 2000;

/// Bytes that are set aside at once ahead of the last record, as far as the allotment is that large.
pub const ALLOCATE_STEP: u64 = 4 << 20;

// Client and peer.

/// How long a client tries to reach or start the peer of its directory.
pub const PEER_START_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a private peer waits for its first client.
pub const PRIVATE_IDLE: Duration = Duration::from_secs(5);

/// Bytes of a private peer's log at most; a longer one is begun anew.
pub const LOG_MAX: u64 = 64 << 10;

/// Leaves from the first that has not come to the last that is asked for, where they are written to where they belong:
/// those below one node. One that is late must not keep all sources waiting.
pub const LEAVES_AHEAD_MAX: usize = FAN_OUT;

/// Bytes of blocks that a fetch holds beyond what it has put out, by default (`--buffer`).
pub const BUFFER_DEFAULT: usize = 16 << 20;

/// Time without a verified block after which a fetch gives up (`--stall`).
pub const STALL_DEFAULT: Duration = Duration::from_secs(30);

const _: () = assert!(
    FAN_OUT * 64 + 64 <= BLOCK_SIZE_MAX,
    "a full root or node fits a block"
);
const _: () = assert!(
    K * 51 + 100 <= DATAGRAM_SIZE_MAX,
    "a bucket of contacts fits a datagram"
);
const _: () = assert!(
    HAVE_MAX * 32 + 100 <= DATAGRAM_SIZE_MAX,
    "a full HAVE fits a datagram"
);
const _: () = assert!(
    LIST_MAX * 8 + 54 <= DATAGRAM_SIZE_MAX && (20 << DIGEST_DEPTH_MAX) + 54 <= DATAGRAM_SIZE_MAX,
    "the fullest replies on digests fit a datagram"
);
const _: () = assert!(
    OFFER_MAX * 36 + 64 <= FRAME_FIELDS_MAX,
    "a full OFFER fits a frame"
);
const _: () = assert!(
    COUNT_LINGER.as_secs() < STALL_DEFAULT.as_secs() && COUNTING_AT_ONCE <= COUNTS_PER_CLIENT,
    "who has blocks counted hears of some before it gives up"
);
const _: () = assert!(
    PLANNED_MAX >= NODES_PER_LEVEL * FAN_OUT && AHEAD_MIN <= AHEAD_MAX,
    "what a reader wants next is planned"
);
const _: () = assert!(
    RESERVATION < CAPACITY_MIN,
    "the smallest allotment holds a block"
);
const _: () = assert!(
    PROGRESS_TIMEOUT.as_secs() < ANSWER_TIMEOUT.as_secs()
        && ANSWER_TIMEOUT.as_secs() < STALL_DEFAULT.as_secs(),
    "who is watched for silence is also watched for answers, and is given up before the user gives up"
);
const _: () = assert!(
    FRAME_STEP >= FRAME_FIELDS_MAX,
    "only a payload is long enough to come in steps"
);
const _: () = assert!(
    LATE_AFTER.as_secs() < ANSWER_TIMEOUT.as_secs(),
    "others are asked before the late one is given up"
);
const _: () = assert!(
    PROGRESS_TIMEOUT.as_secs() < FRAME_TIMEOUT.as_secs(),
    "who is watched for silence is also watched for frames"
);
const _: () = assert!(
    INBOUND_MAX + CONNECTING_MAX <= CONNECTIONS_MAX
        && INBOUND_PER_SOURCE < INBOUND_PER_NETWORK
        && INBOUND_PER_NETWORK < INBOUND_MAX,
    "whoever comes, others can be reached and can come"
);
