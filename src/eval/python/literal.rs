//! `ast.literal_eval`: lists, dictionaries, strings and numbers as Python writes them.

use serde_json::{Map, Number, Value};

/// How deep lists may lie in each other: texts are anybody's.
const DEEPEST: usize = 32;

/// The value that `text` writes; nothing where it is no such literal.
pub(in crate::eval) fn literal(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.skip();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Steps over `sign`, if it is next.
    fn is(&mut self, sign: char) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(sign);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEEPEST {
            return None;
        }
        self.skip();
        match self.rest.chars().next()? {
            '[' | '(' => self.list(depth),
            '{' => self.dictionary(depth),
            '\'' | '"' => self.string().map(Value::String),
            _ => self.word(),
        }
    }

    fn list(&mut self, depth: usize) -> Option<Value> {
        let close = if self.is('[') { ']' } else { ')' };
        if close == ')' {
            self.is('(');
        }
        let mut items = Vec::new();
        while !self.is(close) {
            items.push(self.value(depth + 1)?);
            if !self.is(',') {
                return self.is(close).then_some(Value::Array(items));
            }
        }
        Some(Value::Array(items))
    }

    fn dictionary(&mut self, depth: usize) -> Option<Value> {
        self.is('{');
        let mut entries = Map::new();
        while !self.is('}') {
            let Value::String(key) = self.value(depth + 1)? else { return None };
            if !self.is(':') {
                return None;
            }
            entries.insert(key, self.value(depth + 1)?);
            if !self.is(',') {
                return self.is('}').then_some(Value::Object(entries));
            }
        }
        Some(Value::Object(entries))
    }

    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-._".contains(c));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        match word {
            "None" => Some(Value::Null),
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            _ => match word.parse::<i64>() {
                Ok(number) => Some(number.into()),
                Err(_) => word.parse().ok().and_then(Number::from_f64).map(Value::Number),
            },
        }
    }

    /// A string in either sign, with its escapes.
    fn string(&mut self) -> Option<String> {
        let mut letters = self.rest.chars();
        let quote = letters.next()?;
        let mut text = String::new();
        loop {
            match letters.next()? {
                letter if letter == quote => break,
                '\\' => escape(&mut letters, &mut text)?,
                '\n' => return None,
                letter => text.push(letter),
            }
        }
        self.rest = letters.as_str();
        Some(text)
    }
}

/// What stands behind a backslash.
fn escape(letters: &mut std::str::Chars<'_>, text: &mut String) -> Option<()> {
    let letter = letters.next()?;
    let digits = match letter {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => 0,
    };
    if digits > 0 {
        let code = letters.as_str().get(..digits)?;
        *letters = letters.as_str()[digits..].chars();
        text.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        return Some(());
    }
    match letter {
        '\n' => {}
        'n' => text.push('\n'),
        't' => text.push('\t'),
        'r' => text.push('\r'),
        'a' => text.push('\u{7}'),
        'b' => text.push('\u{8}'),
        'f' => text.push('\u{c}'),
        'v' => text.push('\u{b}'),
        '\\' | '\'' | '"' => text.push(letter),
        // octal and named ones: none is written by `repr`
        '0'..='7' | 'N' => return None,
        other => text.extend(['\\', other]),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        for (text, value) in [
            ("[{'q': \"It's\", 'n': -2}, {}]", json!([{"q": "It's", "n": -2}, {}])),
            (r"['a\'b', 'é\n\x41\u00e9\\', ()]", json!(["a'b", "é\nAé\\", []])),
            ("[1.5, None, True,\n False, ]", json!([1.5, null, true, false])),
        ] {
            assert_eq!(literal(text), Some(value), "{text}");
        }
        let deep = "[".repeat(100_000);
        for text in ["", "[", "['a", "['a' 'b']", "{'a'}", "{1: 2}", "[1] 2", "name", "'\\x4'", &deep] {
            assert_eq!(literal(text), None, "{}", &text[..text.len().min(20)]);
        }
    }
}
