//! What the processes of a group tell each other.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A message: what it is, and bytes.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) head: Head,
    pub(super) data: Vec<u8>,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Head {
    /// The sender is there.
    Beat,
    /// A piece of what process 0 says to all.
    Piece { last: bool },
    /// What a process says to process 0.
    Report,
    /// Numbers of the gradient `name`, f32, those from the number `start`.
    Numbers { name: String, shape: Vec<usize>, start: usize },
    /// No more gradients; the sums of the losses, as bits of f64.
    Loss([u64; 3]),
    /// The sender, any but process 0, cannot go on.
    Failed(Fault),
    /// Nor can process 0, or it has what it needs of a fault: all end.
    End(Fault),
}

/// Why a process cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fault {
    /// [`Error::exit_code`].
    code: u8,
    message: String,
}

impl Fault {
    pub(super) fn of(error: &Error) -> Self {
        Self { code: error.exit_code(), message: error.to_string() }
    }

    /// The error that it is for another process, which says who met it.
    pub(super) fn met_by(self, who: &str) -> Error {
        let message = format!("{who}: {}", self.message);
        match self.code {
            130 => Error::Interrupted,
            2 => Error::request(message),
            _ => Error::work(message),
        }
    }
}

impl Message {
    pub(super) fn new(head: Head, data: Vec<u8>) -> Self {
        Self { head, data }
    }

    /// The head's length (u32, little endian), the head as JSON, the data.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let head = serde_json::to_vec(&self.head).map_err(|error| Error::work(error.to_string()))?;
        let length = u32::try_from(head.len()).map_err(|_| Error::work("a message with too long a head"))?;
        let mut bytes = Vec::with_capacity(4 + head.len() + self.data.len());
        bytes.extend(length.to_le_bytes());
        bytes.extend(head);
        bytes.extend_from_slice(&self.data);
        Ok(bytes)
    }

    pub(super) fn from_bytes(mut bytes: Vec<u8>) -> Result<Self> {
        let broken = || Error::work("a message that is none of this version of prune: start all processes with one");
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(broken)?;
        let length = u32::from_le_bytes(*length) as usize;
        let head = rest.get(..length).and_then(|head| serde_json::from_slice(head).ok()).ok_or_else(broken)?;
        bytes.drain(..4 + length);
        Ok(Self { head, data: bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_comes() {
        let loss = Head::Loss([0.1f64, f64::NAN, -0.0].map(f64::to_bits));
        let numbers = Head::Numbers { name: "ä.weight".to_owned(), shape: vec![2, 3], start: 4 };
        for (head, data) in [(Head::Beat, vec![]), (loss, vec![]), (numbers, vec![0, 255, 7, 9])] {
            let bytes = Message::new(head.clone(), data.clone()).to_bytes().unwrap();
            let back = Message::from_bytes(bytes).unwrap();
            assert_eq!((back.head, back.data), (head, data));
        }
        for broken in [&b""[..], b"\x01\0\0", b"\x09\0\0\0{}", b"\x02\0\0\0{}", b"\xff\xff\xff\xff\"Beat\""] {
            assert!(Message::from_bytes(broken.to_vec()).unwrap_err().to_string().contains("version"), "{broken:?}");
        }
    }

    #[test]
    fn a_fault_stays_what_it_is() {
        for (error, code, text) in [
            (Error::request("no such model"), 2, "process 2 of 4: no such model"),
            (Error::work("full"), 1, "process 2 of 4: full"),
            (Error::Interrupted, 130, "interrupted"),
        ] {
            let met = Fault::of(&error).met_by("process 2 of 4");
            assert_eq!((met.exit_code(), met.to_string().as_str()), (code, text));
        }
    }
}
