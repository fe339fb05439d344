//! The `strew` binary: hands the arguments to the command line and exits with its status.

use std::process::ExitCode;

fn main() -> ExitCode {
    strew::cmd::main()
}
