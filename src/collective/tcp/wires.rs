//! Messages over the connections of a process: each their length (u64, little endian), then their bytes.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::meet::Met;
use crate::collective::transport::Transport;
use crate::{Error, Result};

/// The length that says that no more comes.
const GOODBYE: u64 = u64::MAX;
/// Bytes of a message at most: a piece of a gradient has 4 MiB, and a head.
const MOST: u64 = 1 << 28;
/// How long the end may take that all come to together, and that of one that ends alone.
const TOGETHER: Duration = Duration::from_secs(5);
const ALONE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(1);

/// A connection to another process.
struct Wire {
    stream: TcpStream,
    going: VecDeque<Vec<u8>>,
    /// Bytes of the first of them that are on their way.
    sent: usize,
    length: [u8; 8],
    /// Bytes of the length and the message that have come.
    came: usize,
    coming: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// It has said that no more comes.
    Ended,
    /// Its connection has ended without that.
    Gone,
    /// That has been told.
    Missed,
}

impl Wire {
    fn new(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (going, coming) = (VecDeque::new(), Vec::new());
        Ok(Self { stream, going, sent: 0, length: [0; 8], came: 0, coming, state: State::Open })
    }

    /// Sends what the connection takes at once.
    fn flush(&mut self) {
        while let Some(first) = self.going.front() {
            match self.stream.write(first.get(self.sent..).unwrap_or_default()) {
                Ok(0) => return self.lose(),
                Ok(bytes) if self.sent + bytes < first.len() => self.sent += bytes,
                Ok(_) => {
                    self.going.pop_front();
                    self.sent = 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.lose(),
            }
        }
    }

    /// The next whole message, if it has come.
    fn next(&mut self) -> Option<Vec<u8>> {
        while self.state == State::Open {
            let to = match self.came.checked_sub(8) {
                None => &mut self.length[self.came..],
                Some(of) => &mut self.coming[of..],
            };
            match self.stream.read(to) {
                Ok(0) => self.lose(),
                Ok(bytes) => self.came += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => self.lose(),
            }
            if self.came == 8 {
                match u64::from_le_bytes(self.length) {
                    GOODBYE => self.state = State::Ended,
                    length if length > MOST => self.lose(),
                    length => self.coming = vec![0; length as usize],
                }
            }
            if self.came >= 8 && self.came - 8 == self.coming.len() && self.state == State::Open {
                self.came = 0;
                return Some(std::mem::take(&mut self.coming));
            }
        }
        None
    }

    fn lose(&mut self) {
        if self.state == State::Open {
            self.state = State::Gone;
        }
        self.going.clear();
        self.sent = 0;
    }

    fn post(&mut self, length: u64, message: &[u8]) {
        if matches!(self.state, State::Open | State::Ended) {
            self.going.push_back([&length.to_le_bytes(), message].concat());
            self.flush();
        }
    }

    /// Says that no more comes, and takes in what still does; whether the other end has closed.
    fn is_closed(&mut self) -> bool {
        if !self.going.is_empty() {
            self.flush();
            return false;
        }
        drop(self.stream.shutdown(Shutdown::Write));
        let mut unread = [0; 1 << 12];
        loop {
            match self.stream.read(&mut unread) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock && error.kind() != ErrorKind::Interrupted,
            }
        }
    }
}

/// All connections of a process.
pub(super) struct Wires {
    rank: usize,
    on_this_machine: usize,
    /// By number; none to oneself.
    wires: Vec<Option<Wire>>,
    /// Whose message is looked for first: everyone's turn comes.
    turn: usize,
}

impl Wires {
    pub(super) fn new(met: Met, rank: usize) -> Result<Self> {
        let Met { streams, on_this_machine } = met;
        let wires = streams.into_iter().map(|stream| stream.map(Wire::new).transpose()).collect::<std::io::Result<_>>();
        let wires = wires.map_err(|error| Error::work(format!("connections between processes: {error}")))?;
        Ok(Self { rank, on_this_machine, wires, turn: 0 })
    }

    /// Waits until all others have closed their ends, that long at most: what is not read when a connection ends takes
    /// with it what is still on its way.
    fn close(mut self, patience: Duration) {
        let until = Instant::now() + patience;
        loop {
            let open = self.wires.iter_mut().flatten().map(Wire::is_closed).filter(|is_closed| !is_closed).count();
            if open == 0 || Instant::now() >= until {
                return;
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Transport for Wires {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.wires.len()
    }

    fn on_this_machine(&self) -> usize {
        self.on_this_machine
    }

    fn send(&mut self, to: usize, message: Vec<u8>) -> Result<()> {
        let none = || Error::work(format!("there is no connection to process {to}"));
        self.wires.get_mut(to).and_then(Option::as_mut).ok_or_else(none)?.post(message.len() as u64, &message);
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<(usize, Vec<u8>)>> {
        let size = self.wires.len();
        for at in (self.turn..size).chain(0..self.turn) {
            if let Some(message) = self.wires.get_mut(at).and_then(Option::as_mut).and_then(Wire::next) {
                self.turn = (at + 1) % size;
                return Ok(Some((at, message)));
            }
        }
        Ok(None)
    }

    fn pending(&mut self) -> usize {
        self.wires.iter_mut().flatten().for_each(Wire::flush);
        self.wires.iter().flatten().map(|wire| wire.going.len()).sum()
    }

    fn gone(&mut self) -> Option<usize> {
        let is_gone = |wire: &Option<Wire>| wire.as_ref().is_some_and(|wire| wire.state == State::Gone);
        let rank = self.wires.iter().position(is_gone)?;
        if let Some(Some(wire)) = self.wires.get_mut(rank) {
            wire.state = State::Missed;
        }
        Some(rank)
    }

    fn is_moving(&self) -> bool {
        self.wires.iter().flatten().any(|wire| wire.came > 0 && wire.state == State::Open)
    }

    fn finish(mut self: Box<Self>) {
        self.wires.iter_mut().flatten().for_each(|wire| wire.post(GOODBYE, &[]));
        self.close(TOGETHER);
    }

    fn abandon(self: Box<Self>) {
        self.close(ALONE);
    }
}
