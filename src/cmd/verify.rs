//! `strew verify`: has the peer read its pack again, and compare everything.

use super::client::Trouble;
use super::connect::connect;
use super::failure::{Failure, Status};
use super::json::Object;
use super::options::{self, Common, Opt};
use super::output;
use super::parsed::Parsed;
use super::progress::{count, human, Line};
use super::voice::{is_json, say};
use crate::wire::frame::{Frame, Verifying};

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[options::SUBSET];

/// Which part of all blocks: `N/T` with N from 1 to T. Counted from 0.
fn subset(text: &str) -> Option<(u32, u32)> {
    let (part, of) = text.split_once('/')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| is_number(text).then(|| text.parse::<u32>().ok())?;
    let (part, of) = (number(part)?, number(of)?);
    (1..=of).contains(&part).then(|| (part - 1, of))
}

/// Lists what is damaged.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    parsed.no_arguments("verify")?;
    let subset = parsed.parsed(
        options::SUBSET,
        subset,
        "N/T with N from 1 to T, such as 1/10",
    )?;
    let (part, of) = subset.unwrap_or((0, 1));
    let pack = common.dir.join("pack");
    if let Err(error) = pack.symlink_metadata() {
        let mut failure = Failure::file(&pack, &error);
        failure.message += "; there is nothing to verify: see strew paths, or give another --dir";
        return Err(failure);
    }
    let mut peer = connect(&common)?;
    let mut line = Line::new(&common, "verify");
    let patience = peer.patience;
    let stalled = |trouble: Trouble, at: u64| {
        trouble.into_failure(|| {
            let (pack, at, why) = (pack.display(), human(at), patience.why());
            format!("{pack}: {at} verified, then {why}; try again, or give a longer --stall or --timeout")
        })
    };
    let mut at = 0;
    peer.send(&Frame::Verify { part, of })
        .map_err(|trouble| stalled(trouble, at))?;
    let verified = loop {
        match peer.receive().map_err(|trouble| stalled(trouble, at))? {
            Frame::Damaged { offset, len, id } => {
                // Where no address can be told there is none to be shown.
                let shown = id.map_or("-".to_string(), |id| id.to_string());
                output::answer(&format_args!("{shown} {offset} {len}"), || {
                    Object::new("damage")
                        .text_or_null("address", id)
                        .number("offset", offset)
                        .number("length", len)
                })?;
            }
            Frame::Verifying(verifying) if verifying.is_done => break verifying,
            Frame::Verifying(verifying) => {
                at = verifying.at;
                line.update(at, Some(verifying.end), &damage_so_far(&verifying));
            }
            Frame::Failed { text, .. } => return Err(Failure::new(Status::Other, text)),
            _ => {}
        }
    };
    drop(line);
    peer.leave();
    let Verifying {
        blocks,
        bytes,
        damaged,
        ..
    } = verified;
    if is_json() {
        let object = Object::new("result").number("blocks", blocks);
        output::line(&object.number("bytes", bytes).number("damaged", damaged))?;
    }
    let read = format!("{}, {} read", count(blocks, "block"), human(bytes));
    match damaged {
        0 => {
            say(&common, &format!("{}: {read}, all sound", pack.display()));
            Ok(())
        }
        _ => {
            let places = if damaged == 1 {
                "place is"
            } else {
                "places are"
            };
            let message = format!(
                "{}: {read}; {damaged} {places} damaged. Blocks there are set aside; share what they \
                 belong to again, or strew pin add it, and look after the disk",
                pack.display()
            );
            Err(Failure::new(Status::Damaged, message))
        }
    }
}

fn damage_so_far(verifying: &Verifying) -> String {
    match verifying.damaged {
        0 => String::new(),
        damaged => format!(", {damaged} damaged"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_numbered_from_one() {
        assert_eq!(subset("1/1"), Some((0, 1)));
        assert_eq!(subset("10/10"), Some((9, 10)));
        for bad in [
            "", "1", "0/5", "6/5", "1/0", "a/b", "-1/5", "1/5/5", "+1/5", "1/ 5",
        ] {
            assert_eq!(subset(bad), None, "{bad}");
        }
    }
}
