//! `strew unit`: a service of systemd that runs a peer.

use super::failure::{Failure, Status};
use super::json::Object;
use super::output;
use super::parsed::Parsed;
use crate::sys::plain;

/// What is said of a service; `{program}` stands for the program's path.
const UNIT: &str = include_str!("unit.service");

/// Prints the unit.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    parsed.no_arguments("unit")?;
    let failed = |error| {
        Failure::new(
            Status::Other,
            format!("find this program: {}", plain(&error)),
        )
    };
    let program = std::env::current_exe().map_err(failed)?;
    // What is special in a unit's command line: systemd.service(5), "Command lines".
    let program = program
        .display()
        .to_string()
        .replace('%', "%%")
        .replace('$', "$$");
    if program.contains(char::is_whitespace) {
        let message = format!("{program}: a path with white space; install the program elsewhere");
        return Err(Failure::new(Status::Other, message));
    }
    let unit = UNIT.replace("{program}", &program);
    output::answer(&unit.trim_end(), || {
        Object::new("result").text("unit", &unit)
    })
}
