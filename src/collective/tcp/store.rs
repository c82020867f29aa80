//! The store of keys that torchrun's agent keeps for the processes it starts.
//!
//! Source: PyTorch, torch/csrc/distributed/c10d, TCPStore and TCPStoreBackend.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::meet;
use crate::{Error, Result};

/// What a client says first.
const MAGIC: u32 = 0x3C85_F7CE;
const VALIDATE: u8 = 0;
const SET: u8 = 1;
const GET: u8 = 3;
const WAIT: u8 = 6;
/// The answer to [`WAIT`] when the key is there.
const IS_THERE: u8 = 0;
/// Bytes of a value at most.
const MOST: u64 = 1 << 16;

/// A connection to the store.
pub(super) struct Store {
    stream: TcpStream,
    said: String,
}

impl Store {
    /// Connects to the store at `host`, by `until`.
    ///
    /// # Errors
    /// Work: it does not answer.
    pub(super) fn connect(host: &str, port: u16, until: Instant) -> Result<Self> {
        let said = format!("torchrun's store at {host}:{port} (MASTER_ADDR, MASTER_PORT)");
        let connected = meet::connect(host, port, until).and_then(|mut stream| {
            stream.set_read_timeout(Some(meet::left(until)))?;
            let mut hello = vec![VALIDATE];
            hello.extend(MAGIC.to_le_bytes());
            stream.write_all(&hello).map(|()| stream)
        });
        match connected {
            Ok(stream) => Ok(Self { stream, said }),
            Err(error) => Err(Error::work(format!("{said}: {error}"))),
        }
    }

    /// Keeps `value` as `key`.
    ///
    /// # Errors
    /// Work: the connection's.
    pub(super) fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let mut query = vec![SET];
        append(&mut query, key.as_bytes());
        append(&mut query, value);
        self.stream.write_all(&query).map_err(|error| self.fault(&error))?;
        // the store takes it in before it answers what comes after it
        self.get(key).map(drop)
    }

    /// The value kept as `key`, once there is one.
    ///
    /// # Errors
    /// Work: there is none in time; the connection's.
    pub(super) fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        self.ask(key).map_err(|error| self.fault(&error))
    }

    fn ask(&mut self, key: &str) -> io::Result<Vec<u8>> {
        let mut query = vec![WAIT];
        query.extend(1_u64.to_le_bytes());
        append(&mut query, key.as_bytes());
        self.stream.write_all(&query)?;
        let (mut answer, mut length) = ([0], [0; 8]);
        self.stream.read_exact(&mut answer)?;
        let mut query = vec![GET];
        append(&mut query, key.as_bytes());
        self.stream.write_all(&query)?;
        self.stream.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if answer != [IS_THERE] || length > MOST {
            return Err(io::Error::other("an answer that PyTorch's store does not give"));
        }
        let mut value = vec![0; length as usize];
        self.stream.read_exact(&mut value)?;
        Ok(value)
    }

    fn fault(&self, error: &io::Error) -> Error {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Error::work(format!("{}: process 0 has not come in time: is it started?", self.said))
            }
            _ => Error::work(format!("{}: {error}", self.said)),
        }
    }
}

/// Bytes as the store reads them: their count (u64, little endian) before them.
fn append(query: &mut Vec<u8>, bytes: &[u8]) {
    query.extend((bytes.len() as u64).to_le_bytes());
    query.extend_from_slice(bytes);
}
