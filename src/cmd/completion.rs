//! `strew completion`: what bash, zsh and fish need to complete command lines, made from the tables of commands and
//! options.

use super::failure::Failure;
use super::json::Object;
use super::options::{Opt, Value};
use super::output;
use super::parsed::Parsed;
use super::{shown, Command};
use std::fmt::Write;

const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// Prints the script of a shell.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let arguments: Vec<&str> = parsed.arguments.iter().map(String::as_str).collect();
    let script = match arguments[..] {
        ["bash"] => bash(),
        ["zsh"] => zsh(),
        ["fish"] => fish(),
        _ => {
            let given = ["completion"].iter().chain(&arguments).copied();
            let given: Vec<&str> = given.collect();
            let message = format!(
                "{}: for which shell? Give one of {}",
                given.join(" "),
                SHELLS.join(", ")
            );
            return Err(Failure::usage(message));
        }
    };
    output::answer(&script.trim_end(), || {
        Object::new("result").text("script", &script)
    })
}

/// What is completed where no option is: words, or files.
fn arguments(command: &Command) -> &'static [&'static str] {
    match command.name {
        "pin" => &["add", "rm", "ls"],
        "completion" => SHELLS,
        _ => &[],
    }
}

fn takes_files(command: &Command) -> bool {
    command.synopsis.contains("[FILE...")
}

fn names(option: &Opt) -> String {
    match option.short {
        "" => format!("--{}", option.long),
        short => format!("-{short} --{}", option.long),
    }
}

fn command_names() -> String {
    let names: Vec<&str> = shown()
        .map(|command| command.name)
        .chain(["help"])
        .collect();
    names.join(" ")
}

fn bash() -> String {
    let mut text = String::from(
        "# bash completion of strew\n_strew() {\n    \
         local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n    \
         local command=${COMP_WORDS[1]} words= files=\n    COMPREPLY=()\n    \
         # Where a value follows its option behind =, that is a word of its own.\n    \
         [ \"$before\" != = ] || before=${COMP_WORDS[COMP_CWORD-2]}\n    \
         [ \"$word\" != = ] || word=\n    \
         if [ \"$COMP_CWORD\" -eq 1 ] || { [ \"$COMP_CWORD\" -eq 2 ] && [ \"$command\" = help ]; }; then\n",
    );
    let _ = writeln!(text, "        words='{}'\n    else", command_names());
    text.push_str("        case $command:$before in\n");
    for command in shown() {
        for option in command.all_options() {
            let patterns: Vec<String> = names(option)
                .split(' ')
                .map(|name| format!("{}:{name}", command.name))
                .collect();
            let action = match option.value {
                Value::None => continue,
                Value::Any(_) => "return".to_string(),
                Value::File => "files=-f".to_string(),
                Value::Dir => "files=-d".to_string(),
                Value::Word(_, words) => format!("words='{}'", words.join(" ")),
            };
            let _ = writeln!(text, "        {}) {action} ;;", patterns.join("|"));
        }
    }
    text.push_str("        *)\n            case $command in\n");
    for command in shown() {
        let options: Vec<String> = command
            .all_options()
            .into_iter()
            .map(|option| format!("--{}", option.long))
            .collect();
        let words = arguments(command);
        let first = match words.is_empty() {
            true => String::new(),
            false => format!(
                "; [[ \" ${{COMP_WORDS[*]:2:COMP_CWORD-2}} \" =~ \\ ({})\\  ]] || words=\"{} $words\"",
                words.join("|"),
                words.join(" ")
            ),
        };
        let files = if takes_files(command) {
            " files=-f"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "            {}) words='{}'{first}{files} ;;",
            command.name,
            options.join(" ")
        );
    }
    text.push_str(
        "            esac ;;\n        esac\n    fi\n    case $word in -*) files= ;; esac\n    \
         COMPREPLY=($(compgen $files -W \"$words\" -- \"$word\"))\n    \
         [ -z \"$files\" ] || compopt -o filenames 2>/dev/null\n}\ncomplete -F _strew strew\n",
    );
    text
}

/// A text within single quotes.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn zsh() -> String {
    let escape = |text: &str| {
        text.replace(':', "\\:")
            .replace('[', "\\[")
            .replace(']', "\\]")
    };
    let mut text =
        String::from("#compdef strew\n\n_strew() {\n    local -a commands\n    commands=(\n");
    for command in shown() {
        let _ = writeln!(
            text,
            "        {}",
            quoted(&format!("{}:{}", command.name, escape(command.summary)))
        );
    }
    text.push_str("        'help:show the options of a command'\n    )\n");
    text.push_str(
        "    if (( CURRENT == 2 )); then\n        _describe command commands\n        return\n    fi\n",
    );
    text.push_str(
        "    local command=$words[2]\n    words=(\"${(@)words[2,-1]}\")\n    (( CURRENT-- ))\n    \
         case $command in\n    help) _describe command commands ;;\n",
    );
    for command in shown() {
        let _ = writeln!(text, "    {})\n        _arguments -s \\", command.name);
        for option in command.all_options() {
            let value = match option.value {
                Value::None => String::new(),
                Value::Any(name) => format!(":{}: ", escape(name)),
                Value::File => ":file:_files".to_string(),
                Value::Dir => ":directory:_files -/".to_string(),
                Value::Word(name, words) => format!(":{name}:({})", words.join(" ")),
            };
            let help = escape(option.help);
            let star = if option.repeats { "*" } else { "" };
            let list = names(option);
            // The value may follow behind =, too.
            let sign = if value.is_empty() { "" } else { "=" };
            let spec = match (list.split_once(' '), option.repeats) {
                (Some((short, long)), false) => {
                    format!(
                        "'({short} {long})'{{{short},{long}{sign}}}{}",
                        quoted(&format!("[{help}]{value}"))
                    )
                }
                (Some((short, long)), true) => {
                    format!(
                        "'*'{{{short},{long}{sign}}}{}",
                        quoted(&format!("[{help}]{value}"))
                    )
                }
                (None, _) => quoted(&format!("{star}{list}{sign}[{help}]{value}")),
            };
            let _ = writeln!(text, "            {spec} \\");
        }
        let words = arguments(command);
        let rest = match (words.is_empty(), takes_files(command)) {
            (false, _) => format!("'1:what:({})'", words.join(" ")),
            (true, true) => "'*:file:_files'".to_string(),
            (true, false) => "'*: :'".to_string(),
        };
        let _ = writeln!(text, "            {rest}\n        ;;");
    }
    text.push_str(
        "    esac\n}\n\nif [[ $funcstack[1] == _strew ]]; then\n    _strew \"$@\"\nelse\n    \
         compdef _strew strew\nfi\n",
    );
    text
}

fn fish() -> String {
    let mut text = String::from("# fish completion of strew\ncomplete -c strew -f\n");
    let at_start = "-n __fish_use_subcommand";
    for command in shown() {
        let _ = writeln!(
            text,
            "complete -c strew {at_start} -a {} -d {}",
            command.name,
            quoted(command.summary)
        );
    }
    let _ = writeln!(
        text,
        "complete -c strew {at_start} -a help -d 'show the options of a command'"
    );
    let _ = writeln!(
        text,
        "complete -c strew -n '__fish_seen_subcommand_from help' -a '{}'",
        command_names()
    );
    for command in shown() {
        let seen = format!("-n '__fish_seen_subcommand_from {}'", command.name);
        let words = arguments(command);
        if !words.is_empty() {
            let words = words.join(" ");
            let first = format!(
                "-n '__fish_seen_subcommand_from {}; and not __fish_seen_subcommand_from {words}'",
                command.name
            );
            let _ = writeln!(text, "complete -c strew {first} -a '{words}'");
        }
        if takes_files(command) {
            let _ = writeln!(text, "complete -c strew {seen} -F");
        }
        for option in command.all_options() {
            let short = match option.short {
                "" => String::new(),
                short => format!(" -s {short}"),
            };
            let value = match option.value {
                Value::None => String::new(),
                Value::Any(_) => " -x".to_string(),
                Value::File => " -r -F".to_string(),
                Value::Dir => " -x -a '(__fish_complete_directories)'".to_string(),
                Value::Word(_, words) => format!(" -x -a '{}'", words.join(" ")),
            };
            let _ = writeln!(
                text,
                "complete -c strew {seen}{short} -l {}{value} -d {}",
                option.long,
                quoted(option.help)
            );
        }
    }
    text
}
