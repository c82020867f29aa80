//! Changes of JSON that leave it JSON, and some that do not.

use rand::Rng as _;
use serde_json::{Map, Value, json};

use super::bytes;
use super::case::Rng;

/// `good` with some changes, as text.
pub(super) fn changed(rng: &mut Rng, good: &Value) -> Vec<u8> {
    let mut value = good.clone();
    for _ in 0..rng.random_range(1..4) {
        change(rng, &mut value, good);
    }
    text(rng, &value)
}

/// The text of a value: as Python writes it, now and then with a byte broken.
pub(super) fn text(rng: &mut Rng, value: &Value) -> Vec<u8> {
    let text = if rng.random() { value.to_string() } else { serde_json::to_string_pretty(value).unwrap() };
    // numbers that JSON does not have and Python writes
    let text =
        ["NaN", "Infinity", "-Infinity"].iter().fold(text, |text, name| text.replace(&format!("\"@{name}\""), name));
    let mut bytes = text.into_bytes();
    if rng.random_ratio(1, 12) {
        bytes::change(rng, &mut bytes, &[]);
    }
    bytes
}

/// Lines of JSON, `good` but for one of them.
pub(super) fn lines(rng: &mut Rng, good: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = good.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let at = rng.random_range(0..lines.len());
    match serde_json::from_slice(&lines[at]) {
        Ok(line) => lines[at] = changed(rng, &line),
        Err(_) => bytes::change(rng, &mut lines[at], &[]),
    }
    lines.join(&b'\n')
}

/// Any place in `value`, the higher the likelier.
fn place<'v>(rng: &mut Rng, value: &'v mut Value) -> &'v mut Value {
    let mut here = value;
    loop {
        let inside = match here {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        };
        if inside == 0 || rng.random_ratio(1, 4) {
            return here;
        }
        let at = rng.random_range(0..inside);
        here = match here {
            Value::Array(list) => &mut list[at],
            Value::Object(map) => map.values_mut().nth(at).unwrap(),
            _ => unreachable!("only these have something inside"),
        };
    }
}

pub(super) fn change(rng: &mut Rng, value: &mut Value, good: &Value) {
    let other = place(rng, &mut good.clone()).clone();
    let here = place(rng, value);
    match (rng.random_range(0..8), &mut *here) {
        (0, Value::Object(map)) if !map.is_empty() => {
            let key = map.keys().nth(rng.random_range(0..map.len())).unwrap().clone();
            map.shift_remove(&key);
        }
        (1, Value::Object(map)) => drop(map.insert(key(rng), odd(rng))),
        (2, Value::Object(map)) if !map.is_empty() => {
            let old = map.keys().nth(rng.random_range(0..map.len())).unwrap().clone();
            let moved = map.shift_remove(&old).unwrap();
            map.insert(key(rng), moved);
        }
        (0, Value::Array(list)) if !list.is_empty() => drop(list.remove(rng.random_range(0..list.len()))),
        (1, Value::Array(list)) if !list.is_empty() => {
            let piece = list[rng.random_range(0..list.len())].clone();
            list.extend(std::iter::repeat_n(piece, rng.random_range(1..40)));
        }
        (2, Value::Array(list)) => list.insert(rng.random_range(0..=list.len()), odd(rng)),
        (0..4, Value::Number(number)) => {
            let number = number.as_f64().unwrap_or(0.0);
            let nudged = [number + 1.0, number - 1.0, -number, number * 2.0, number / 2.0, number * 1e9, number * 1e-9];
            let nudged = nudged[rng.random_range(0..nudged.len())];
            *here = if nudged.fract() == 0.0 && rng.random() { json!(nudged as i64) } else { json!(nudged) };
        }
        (0..4, Value::String(text)) => {
            let mut bytes = std::mem::take(text).into_bytes();
            bytes::change(rng, &mut bytes, &[]);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        (3, _) => *here = json!([here.take()]),
        (4, _) => *here = Value::Object(Map::from_iter([(key(rng), here.take())])),
        (5, _) => *here = other,
        _ => *here = odd(rng),
    }
}

/// A value that is not expected.
pub(super) fn odd(rng: &mut Rng) -> Value {
    let nested = |depth| (0..depth).fold(json!(0), |inside, _| json!([inside]));
    let all = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1),
        json!(2),
        json!(3),
        json!(0.5),
        json!(-0.0),
        json!(1e308),
        json!(-1e308),
        json!(1e-320),
        json!(65_536),
        json!(1_000_000_007),
        json!(4_294_967_296_u64),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!("@NaN"),
        json!("@Infinity"),
        json!("@-Infinity"),
        json!(""),
        json!("a"),
        json!("\u{1b}[31m\u{7}"),
        json!("\u{202e}\u{2066}"),
        json!("\n"),
        json!("../../x"),
        json!("/etc/passwd"),
        json!("\0"),
        json!("a".repeat(4000)),
        json!("é".repeat(700)),
        json!("-"),
        json!("1"),
        json!([]),
        json!({}),
        json!([0]),
        json!([[]]),
        json!(vec![0; 300]),
        json!(vec!["a"; 50]),
        nested(20),
        nested(140),
        json!({"a": 1}),
        json!([1, -1]),
        json!(["a", 1, null]),
    ];
    all[rng.random_range(0..all.len())].clone()
}

/// A name that is not expected.
fn key(rng: &mut Rng) -> String {
    let all =
        ["", "a", "\u{7}\u{1b}]0;x", "\u{202e}", "\n", "..", "/", "__metadata__", "é", "-1", "0", "a.b", "a,none"];
    match rng.random_range(0..=all.len()) {
        at if at < all.len() => all[at].to_owned(),
        _ => "k".repeat(3000),
    }
}
