//! The log as TensorBoard reads it: an event for each line, in a file that grows with the run.
//!
//! A file is a row of records: the length of the data (u64, little endian), its masked checksum, the data, their masked
//! checksum. The data are an `Event` in Protocol Buffers: when it was written, its step, and its numbers by their tag
//! (tensorflow/core/lib/io/record_writer.cc, tensorflow/core/util/event.proto).

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::accuracy::Accuracies;
use super::journal::{Line, RolloutReport};
use crate::checkpoint::write_file;
use crate::{Error, Result, files};

/// The file's name; what TensorBoard looks for is `tfevents` in it.
pub const EVENTS: &str = "events.out.tfevents.heal";

/// What the first event of a file says.
const VERSION: &str = "brain.Event:2";

/// The events of an unfinished run.
#[derive(Debug)]
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Takes up the file in `dir` where it has the events of `lines`, in the order of the log: theirs keep the time
    /// they were written at, those that are not there are written now, what came after them is gone.
    ///
    /// # Errors
    /// Work: it cannot be read or written.
    pub(super) fn open(dir: &Path, lines: &[Line]) -> Result<Self> {
        let path = dir.join(EVENTS);
        let before = if path.exists() { files::read(&path, files::LOG)? } else { Vec::new() };
        let (mut times, now) = (times(&before).into_iter(), now());
        let mut time = || times.next().unwrap_or(now);
        let mut all = record(&event(time(), None));
        for line in lines {
            all.extend(record(&event(time(), Some(line))));
        }
        write_file(&path, true, &all)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|error| Error::io(&path, &error))?;
        Ok(Self { path, file })
    }

    /// Adds the event of a line.
    ///
    /// # Errors
    /// Work: the disk is full.
    pub(super) fn add(&mut self, line: &Line) -> Result<()> {
        self.file.write_all(&record(&event(now(), Some(line)))).map_err(|error| Error::io(&self.path, &error))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// The numbers of a line by their tags, those of the Hugging Face Trainer.
fn numbers(line: &Line) -> Vec<(Cow<'static, str>, f64)> {
    match line {
        Line::Step { loss, cross_entropy, hidden, rollouts, lr, grad_norm, tokens_per_second, .. } => {
            let mut numbers = vec![
                ("train/loss".into(), *loss),
                ("train/learning_rate".into(), *lr),
                ("train/grad_norm".into(), *grad_norm),
                ("train/tokens_per_second".into(), *tokens_per_second),
            ];
            numbers.extend(cross_entropy.map(|loss| ("train/cross_entropy".into(), loss)));
            numbers.extend(hidden.map(|loss| ("train/hidden".into(), loss)));
            if let Some(RolloutReport { most, counts }) = rollouts {
                numbers.push(("train/repeated".into(), counts.repeated_share()));
                numbers.push(("train/rollout_tokens".into(), *most as f64));
            }
            numbers
        }
        Line::Validation { val_loss, accuracies, .. } => {
            let mut numbers = vec![("eval/loss".into(), *val_loss)];
            if let Some(Accuracies { accuracy, tasks }) = accuracies {
                numbers.push(("eval/accuracy".into(), *accuracy));
                numbers.extend(tasks.iter().map(|(task, share)| (format!("eval/{task}_accuracy").into(), *share)));
            }
            numbers
        }
        Line::Measured { .. } => Vec::new(),
    }
}

/// An `Event`: 1 the time, 2 the step, 3 the file's version, 5 a `Summary`, whose values (1) have a tag (1) and an f32
/// (2).
fn event(time: f64, line: Option<&Line>) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(time.to_le_bytes());
    let Some(line) = line else {
        field(&mut event, 3, VERSION.as_bytes());
        return event;
    };
    event.push(2 << 3);
    varint(&mut event, line.step() as u64);
    let mut summary = Vec::new();
    for (tag, number) in numbers(line) {
        let mut value = Vec::new();
        field(&mut value, 1, tag.as_bytes());
        value.push(2 << 3 | 5);
        value.extend((number as f32).to_le_bytes());
        field(&mut summary, 1, &value);
    }
    field(&mut event, 5, &summary);
    event
}

/// A field of so many bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Seven bits a byte, the lowest first.
fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The data with what stands around them.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// Bytes around the data of a record: before, and with those behind.
const BEFORE: usize = 12;
const AROUND: usize = 16;

/// The times of the events of a file, as far as it is whole.
fn times(mut file: &[u8]) -> Vec<f64> {
    let mut times = Vec::new();
    while let Some((length, _)) = file.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length);
        let Some(end) = usize::try_from(length).ok().and_then(|length| length.checked_add(AROUND)) else { break };
        let Some((own, rest)) = file.split_at_checked(end) else { break };
        let data = &own[BEFORE..end - 4];
        let time = data.get(1..9).and_then(|time| time.try_into().ok()).map(f64::from_le_bytes);
        match time {
            Some(time) if record(data) == own && data[0] == 1 << 3 | 1 => times.push(time),
            _ => break,
        }
        file = rest;
    }
    times
}

/// The checksum as records have it: turned by fifteen bits, and a number added.
fn masked(data: &[u8]) -> [u8; 4] {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32C (RFC 3720, B.4): Castagnoli's polynomial, the lowest bit first.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let (mut table, mut byte) = ([0; 256], 0);
        while byte < 256 {
            let (mut rest, mut bit) = (byte as u32, 0);
            while bit < 8 {
                rest = rest >> 1 ^ if rest & 1 == 1 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            table[byte] = rest;
            byte += 1;
        }
        table
    };
    !data.iter().fold(!0, |rest: u32, byte| rest >> 8 ^ TABLE[usize::from(rest as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The check value of the CRC catalogue, and RFC 3720's examples.
    #[test]
    fn checksums_are_castagnolis() {
        let up: Vec<u8> = (0..32).collect();
        for (data, sum) in [
            (&b"123456789"[..], 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&up, 0x46dd_794e),
            (b"", 0),
        ] {
            assert_eq!(crc32c(data), sum);
        }
    }

    /// An event byte for byte, as the format's descriptions say.
    #[test]
    fn an_event_byte_for_byte() {
        let line = Line::Validation { step: 300, val_loss: 1.5, accuracies: None };
        let expected = [
            &[0x09][..],
            &2.0_f64.to_le_bytes(),
            &[0x10, 0xac, 0x02],
            &[0x2a, 18],
            &[0x0a, 16],
            &[0x0a, 9],
            b"eval/loss",
            &[0x15],
            &1.5_f32.to_le_bytes(),
        ];
        assert_eq!(event(2.0, Some(&line)), expected.concat());
    }

    #[test]
    fn what_came_after_the_state_is_gone_and_times_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(EVENTS);
        let line = |step| Line::Validation { step, val_loss: step as f64, accuracies: None };
        let mut events = Events::open(dir.path(), &[]).unwrap();
        (1..4).for_each(|step| events.add(&line(step)).unwrap());
        let whole = fs::read(&path).unwrap();
        let seen = times(&whole);
        assert_eq!(seen.len(), 4);
        // two lines are left, and the end of the file was cut short
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let mut events = Events::open(dir.path(), &[line(1), line(2)]).unwrap();
        let kept = fs::read(&path).unwrap();
        assert!(whole.starts_with(&kept) && times(&kept) == seen[..3]);
        events.add(&line(3)).unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), whole.len());
        // a run that was not watched so far; a file that is something else
        for before in [None, Some(&b"something else, and long enough"[..])] {
            before.map_or_else(|| fs::remove_file(&path).unwrap(), |bytes| fs::write(&path, bytes).unwrap());
            Events::open(dir.path(), &[line(1), line(2)]).unwrap();
            assert_eq!(times(&fs::read(&path).unwrap()).len(), 3);
        }
    }
}
