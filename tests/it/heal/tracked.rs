//! Event files: read as the format's descriptions say, by nothing of the program's own.

use std::fs;
use std::path::Path;

use prune::commands::heal::heal;
use prune::heal::{EVENTS, HealSettings, Quant, Track, WorkDir};
use prune::progress::Silent;
use serde_json::{Value, json};

use crate::fixture::desk::Desk;
use crate::fixture::impatient::Impatient;

/// CRC-32C a bit at a time, highest bit first over mirrored bytes.
fn crc32c(data: &[u8]) -> u32 {
    let mut rest = u32::MAX;
    for byte in data {
        rest ^= u32::from(byte.reverse_bits()) << 24;
        for _ in 0..8 {
            rest = if rest >> 31 == 1 { (rest << 1) ^ 0x1edc_6f41 } else { rest << 1 };
        }
    }
    !rest.reverse_bits()
}

fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A field: its number, and the number or bytes it holds.
enum Held<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn fields(mut message: &[u8]) -> Vec<(u64, Held<'_>)> {
    fn varint(message: &mut &[u8]) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = message[0];
            *message = &message[1..];
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return number;
            }
        }
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let held = match key & 7 {
            0 => Held::Number(varint(&mut message)),
            kind => {
                let length = match kind {
                    1 => 8,
                    5 => 4,
                    2 => varint(&mut message) as usize,
                    other => panic!("a field of kind {other}"),
                };
                let (own, rest) = message.split_at(length);
                message = rest;
                Held::Bytes(own)
            }
        };
        found.push((key >> 3, held));
    }
    found
}

/// Time, step and numbers by tag.
type Event = (f64, u64, Vec<(String, f32)>);

/// Every event but the first, which says the version.
fn events(path: &Path) -> Vec<Event> {
    let file = fs::read(path).unwrap();
    let (mut at, mut events, mut version) = (0, Vec::new(), String::new());
    while at < file.len() {
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let length = u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
        assert_eq!(word(at + 8), masked(&file[at..at + 8]), "the checksum of a length");
        let data = &file[at + 12..at + 12 + length];
        assert_eq!(word(at + 12 + length), masked(data), "the checksum of an event");
        let (mut time, mut step, mut numbers) = (0.0, 0, Vec::new());
        for field in fields(data) {
            match field {
                (1, Held::Bytes(bytes)) => time = f64::from_le_bytes(bytes.try_into().unwrap()),
                (2, Held::Number(number)) => step = number,
                (3, Held::Bytes(bytes)) => version = String::from_utf8(bytes.to_vec()).unwrap(),
                (5, Held::Bytes(summary)) => {
                    for (_, value) in fields(summary) {
                        let Held::Bytes(value) = value else { panic!("a value that is a number") };
                        match &fields(value)[..] {
                            [(1, Held::Bytes(tag)), (2, Held::Bytes(number))] => numbers.push((
                                String::from_utf8(tag.to_vec()).unwrap(),
                                f32::from_le_bytes((*number).try_into().unwrap()),
                            )),
                            _ => panic!("a value without tag and number"),
                        }
                    }
                }
                (other, _) => panic!("a field {other}"),
            }
        }
        if at > 0 {
            events.push((time, step, numbers));
        }
        at += 16 + length;
    }
    assert_eq!(version, "brain.Event:2");
    events
}

fn log(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Each line of the log is an event with its numbers, also of a run that was stopped and went on; the adapter is what
/// it is without.
#[test]
fn events_are_the_log() {
    let desk = Desk::new();
    let text = |name: &str| Some(desk.path(name).display().to_string());
    let settings = |out: &str, track: Option<Track>| HealSettings {
        model: text("model"),
        data: text("text.jsonl").into_iter().collect(),
        eval_data: text("text.jsonl"),
        teacher: text("model"),
        steps: 5,
        batch: 2,
        seq_len: Some(8),
        rank: 2.into(),
        eval_every: 2,
        quant: Quant::None,
        track,
        out: Some(desk.path(out)),
        ..HealSettings::default()
    };
    let track = Some(Track::Tensorboard);
    let impatient = Impatient::default();
    impatient.interrupt.run(|| heal(&settings("stopped", track), &impatient)).unwrap_err();
    let running = WorkDir::place(&desk.path("stopped")).join(EVENTS);
    let before = events(&running);
    assert!((2..8).contains(&before.len()), "{}", before.len());
    let report = heal(&settings("stopped", track), &Silent).unwrap();
    assert!(report.steps_before > 0);
    heal(&settings("whole", None), &Silent).unwrap();
    assert!(!desk.path("whole/tensorboard").exists());
    let adapter = "adapter/adapter_model.safetensors";
    assert!(
        fs::read(desk.path("stopped").join(adapter)).unwrap() == fs::read(desk.path("whole").join(adapter)).unwrap()
    );

    let found = events(&desk.path("stopped/tensorboard").join(EVENTS));
    // what stood there before keeps its time
    assert!(before.iter().zip(&found).all(|(before, found)| before.0 == found.0 && before.1 == found.1));
    assert!(found.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
    let lines: Vec<Value> = log(&desk.path("stopped")).into_iter().filter(|line| line.get("step").is_some()).collect();
    assert_eq!(found.len(), lines.len());
    for ((_, step, numbers), line) in found.iter().zip(&lines) {
        assert_eq!(json!(step), line["step"]);
        let expected: Vec<(&str, &str)> = match line.get("val_loss") {
            Some(_) => vec![("eval/loss", "val_loss")],
            None => vec![
                ("train/loss", "loss"),
                ("train/learning_rate", "lr"),
                ("train/grad_norm", "grad_norm"),
                ("train/tokens_per_second", "tokens_per_second"),
                ("train/cross_entropy", "cross_entropy"),
            ],
        };
        assert_eq!(numbers.len(), expected.len());
        for ((tag, number), (expected, key)) in numbers.iter().zip(expected) {
            assert_eq!((tag.as_str(), *number), (expected, line[key].as_f64().unwrap() as f32));
        }
    }
}

/// Asked for later, of a run that is done: it was healed without.
#[test]
fn what_was_not_tracked_is_told() {
    let desk = Desk::new();
    let heal = "heal model --data text.jsonl --seq-len 8 --batch 2 --steps 2 --rank 2 --adapter-only -o healed";
    desk.json(&format!("{heal} --json"));
    desk.refused(&format!("{heal} --track tensorboard"), 2, &["track was absent, is \"tensorboard\"", "--force"]);
    let report = desk.json(&format!("{heal} --track tensorboard --force --json"));
    assert_eq!(report["found"], json!(false));
    assert_eq!(events(&desk.path("healed/tensorboard").join(EVENTS)).len(), 2);
}
