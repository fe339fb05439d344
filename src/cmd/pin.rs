//! `strew pin`: files that are kept whole, whatever else comes.

use super::client::{Peer, Trouble};
use super::connect::connect;
use super::failure::{Failure, Status};
use super::json::Object;
use super::options::{Common, Opt};
use super::output;
use super::parsed::Parsed;
use super::place::root;
use super::progress::{human, Line};
use super::voice::{for_each_reported, is_json, say};
use crate::id::BlockId;
use crate::wire::frame::Frame;

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[];

/// Adds, removes or lists pins.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    let Some((what, addresses)) = parsed.arguments.split_first() else {
        let message = "pin what? Give add ADDRESS, rm ADDRESS, or ls";
        return Err(Failure::usage(message));
    };
    match what.as_str() {
        "add" => for_each_root(&common, addresses, add),
        "rm" => for_each_root(&common, addresses, remove),
        "ls" if addresses.is_empty() => list(&common),
        "ls" => Err(Failure::usage("pin ls takes no arguments")),
        _ => Err(Failure::usage(format!(
            "pin {what}: give add ADDRESS, rm ADDRESS, or ls"
        ))),
    }
}

/// Does something for each address. One that fails is reported, the rest go on, and the first failure's status is
/// returned. A KEY is not needed, and not used.
fn for_each_root(
    common: &Common,
    addresses: &[String],
    each: fn(&Common, &mut Peer, BlockId) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let roots = addresses.iter().map(|text| root(text));
    let roots: Vec<BlockId> = roots.collect::<Result<_, _>>()?;
    if roots.is_empty() {
        return Err(Failure::usage("pin which? Give an ADDRESS after add or rm"));
    }
    let mut peer = connect(common)?;
    let result = for_each_reported(roots, |root| each(common, &mut peer, root));
    peer.leave();
    result
}

fn add(common: &Common, peer: &mut Peer, root: BlockId) -> Result<(), Failure> {
    let mut line = Line::new(common, &root.to_string()[..8]);
    let len = pin(peer, root, &mut line)?;
    drop(line);
    say(common, &format!("{root}: {} pinned", human(len)));
    is_pinned(root, true)
}

/// Has the peer pin a file, and fetch what of it is not there; its length.
pub fn pin(peer: &mut Peer, root: BlockId, line: &mut Line) -> Result<u64, Failure> {
    peer.send(&Frame::Pin(root))
        .map_err(|trouble| broken_off(peer, root, trouble))?;
    let (mut at, mut total) = (0, None);
    loop {
        let received = peer.receive_telling(|| line.update(at, total, ", waiting for other peers"));
        match received {
            Ok(Frame::Pinning { bytes, len }) => {
                (at, total) = (bytes, Some(len));
                line.update(at, total, "");
            }
            Ok(Frame::Pinned {
                root: other, len, ..
            }) if other == root => return Ok(len),
            Ok(Frame::Missing { id, reason, asked }) => {
                return Err(peer.missing(root, id, reason, asked));
            }
            Ok(Frame::Failed { status, text }) => {
                return Err(Failure::new(Status::from_number(status), text));
            }
            Ok(_) => {}
            Err(trouble) => return Err(broken_off(peer, root, trouble)),
        }
    }
}

fn broken_off(peer: &Peer, root: BlockId, trouble: Trouble) -> Failure {
    let why = peer.patience.why();
    trouble.into_failure(|| {
        format!("{root}: not pinned, {why}; the same command goes on from what is here")
    })
}

fn remove(common: &Common, peer: &mut Peer, root: BlockId) -> Result<(), Failure> {
    let failed = |peer: &Peer, trouble: Trouble| {
        let why = peer.patience.why();
        trouble.into_failure(|| format!("{root}: not unpinned, {why}; try again"))
    };
    peer.send(&Frame::Unpin(root))
        .map_err(|trouble| failed(peer, trouble))?;
    loop {
        match peer.receive() {
            Ok(Frame::Unpinned(true)) => {
                say(common, &format!("{root}: no longer pinned"));
                return is_pinned(root, false);
            }
            Ok(Frame::Unpinned(false)) => {
                let message = format!("{root}: is not pinned; strew pin ls shows what is");
                return Err(Failure::new(Status::NotFound, message));
            }
            Ok(Frame::Failed { status, text }) => {
                return Err(Failure::new(Status::from_number(status), text));
            }
            Ok(_) => {}
            Err(trouble) => return Err(failed(peer, trouble)),
        }
    }
}

/// What has come of it, for `--json`: where all is said in words there is nothing to be answered.
fn is_pinned(root: BlockId, is_pinned: bool) -> Result<(), Failure> {
    match is_json() {
        true => {
            let object = Object::new("result").text("address", root);
            output::line(&object.boolean("pinned", is_pinned))
        }
        false => Ok(()),
    }
}

/// One line for each pin: address, bytes, blocks that are missing.
fn list(common: &Common) -> Result<(), Failure> {
    let mut peer = connect(common)?;
    let failed = |trouble: Trouble| {
        let dir = common.dir.display();
        trouble.into_failure(|| format!("the peer of {dir} does not answer"))
    };
    peer.send(&Frame::Pins).map_err(failed)?;
    loop {
        match peer.receive().map_err(failed)? {
            Frame::Pinned { root, len, missing } => {
                output::answer(&format_args!("{root} {len} {missing}"), || {
                    Object::new("pin")
                        .text("address", root)
                        .number("bytes", len)
                        .number("missing", missing)
                })?;
            }
            Frame::Pins => break,
            _ => {}
        }
    }
    peer.leave();
    Ok(())
}
