//! JSON objects, one a line, as `--json` has them: RFC 8259. Each begins with its version, 1, and its type.

use std::fmt::{self, Display, Write};

/// An object that is being made.
pub struct Object(String);

impl Object {
    /// An object of this type.
    pub fn new(kind: &str) -> Object {
        Object("{\"v\":1".to_string()).text("type", kind)
    }

    /// An object that only is a member of another.
    pub fn inner() -> Object {
        Object("{".to_string())
    }

    /// A member that is JSON already.
    fn raw(mut self, name: &str, json: impl Display) -> Object {
        let comma = if self.0.len() > 1 { "," } else { "" };
        let written = write!(self.0, "{comma}{}:{json}", quoted(name));
        written.expect("a string takes any text");
        self
    }

    /// A string.
    pub fn text(self, name: &str, text: impl Display) -> Object {
        let text = quoted(&text.to_string());
        self.raw(name, text)
    }

    /// A string, or null.
    pub fn text_or_null(self, name: &str, text: Option<impl Display>) -> Object {
        match text {
            Some(text) => self.text(name, text),
            None => self.raw(name, "null"),
        }
    }

    /// A number: an integer, or one that is finite.
    pub fn number(self, name: &str, number: impl Display) -> Object {
        self.raw(name, number)
    }

    /// A number, or null.
    pub fn number_or_null(self, name: &str, number: Option<impl Display>) -> Object {
        match number {
            Some(number) => self.raw(name, number),
            None => self.raw(name, "null"),
        }
    }

    /// True or false.
    pub fn boolean(self, name: &str, value: bool) -> Object {
        self.raw(name, value)
    }

    /// A list of strings.
    pub fn texts<'a>(self, name: &str, texts: impl Iterator<Item = &'a str>) -> Object {
        let list: Vec<String> = texts.map(quoted).collect();
        self.raw(name, format_args!("[{}]", list.join(",")))
    }

    /// Another object.
    pub fn object(self, name: &str, inner: Object) -> Object {
        self.raw(name, inner)
    }
}

impl Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}}}", self.0)
    }
}

/// A string as JSON has it (section 7).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            letter if letter < ' ' => {
                let code = u32::from(letter);
                write!(quoted, "\\u{code:04x}").expect("a string takes any text");
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_as_the_standard_has_them() {
        let object = Object::new("a \"b\"\\\n\u{1}é")
            .number("n", 1.5)
            .text_or_null("t", None::<&str>)
            .texts("l", ["p", "q"].into_iter())
            .object("o", Object::inner().boolean("x", true).number("y", 2));
        assert_eq!(
            object.to_string(),
            r#"{"v":1,"type":"a \"b\"\\\n\u0001é","n":1.5,"t":null,"l":["p","q"],"o":{"x":true,"y":2}}"#
        );
        assert_eq!(Object::inner().to_string(), "{}");
    }
}
