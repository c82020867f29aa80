//! Processes that know of each other.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::chain;
use super::message::{Fault, Head, Message};
use super::post::{Event, Post, Seat};
use super::transport::Transport;
use super::{Collective, Sums};
use crate::{Context, Error, Result, interrupt};

/// Processes that do one piece of work together, over a [`Transport`]. Process 0 leads. Who fails says so, who is not
/// heard of for a while is named, and all end.
#[derive(Debug)]
pub struct ProcessGroup {
    seat: Seat,
    desk: Mutex<Desk>,
}

/// What a process works on messages with.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) seat: Seat,
    /// Gone once the process has left the group.
    post: Option<Post>,
    /// Messages of each process that nobody waited for yet.
    came: Vec<VecDeque<Message>>,
    /// Whether process 0 has said that all end, or says nothing more.
    is_over: bool,
    patience: Duration,
}

impl ProcessGroup {
    /// Joins the others over what `open` makes, in a thread of its own. Who is not heard of for `patience` is taken for
    /// dead.
    ///
    /// # Errors
    /// Those of `open`. Work: it takes longer than `patience`. Interrupted.
    pub fn join(
        open: impl FnOnce() -> Result<Box<dyn Transport>> + Send + 'static,
        patience: Duration,
    ) -> Result<Self> {
        let (post, seat) = Post::start(open, patience)?;
        let came = (0..seat.size).map(|_| VecDeque::new()).collect();
        Ok(Self { seat, desk: Mutex::new(Desk { seat, post: Some(post), came, is_over: false, patience }) })
    }

    /// How many of the processes share this machine's memory.
    #[must_use]
    pub fn on_this_machine(&self) -> usize {
        self.seat.on_this_machine
    }

    /// Tells process 0 something; not for that one itself.
    ///
    /// # Errors
    /// Work: a process that is gone. Interrupted.
    pub fn report(&self, bytes: Vec<u8>) -> Result<()> {
        self.desk().send(0, Message::new(Head::Report, bytes))
    }

    /// What all others tell process 0, which waits for them.
    ///
    /// # Errors
    /// Work: a process that is gone. Request, Work: what one of them met. Interrupted.
    pub fn reports(&self) -> Result<Vec<Vec<u8>>> {
        let mut desk = self.desk();
        let report = |from| match desk.next(from)? {
            Message { head: Head::Report, data } => Ok(data),
            other => Err(out_of_turn(&other)),
        };
        (1..self.seat.size).map(report).collect()
    }

    /// What one of the others tells process 0, whoever is the first, and who it is: waits for it.
    ///
    /// # Errors
    /// As [`ProcessGroup::reports`].
    pub fn next_report(&self) -> Result<(usize, Vec<u8>)> {
        let mut desk = self.desk();
        loop {
            if let Some(report) = desk.report()? {
                return Ok(report);
            }
            interrupt::check()?;
            desk.attend()?;
        }
    }

    /// The same of what has come already.
    ///
    /// # Errors
    /// As [`ProcessGroup::reports`].
    pub fn report_so_far(&self) -> Result<Option<(usize, Vec<u8>)>> {
        let mut desk = self.desk();
        desk.glance()?;
        desk.report()
    }

    /// Looks whether all go on.
    ///
    /// # Errors
    /// As [`ProcessGroup::reports`].
    pub fn look(&self) -> Result<()> {
        self.desk().glance()
    }

    /// Leaves the group when all is done; the others do the same. What process 0 does then, it does alone.
    pub fn leave(&self) {
        if let Some(post) = self.desk().post.take() {
            post.close(true);
        }
    }

    /// Leaves the group with what came of the work. A fault of one process ends all.
    ///
    /// # Errors
    /// That of `result`.
    pub fn close<T>(self, result: Result<T>) -> Result<T> {
        let mut desk = self.desk();
        match &result {
            Err(error) if desk.post.is_some() => {
                let fault = Fault::of(error);
                if self.seat.rank == 0 {
                    let end = |rank| desk.post_now(rank, Head::End(fault.clone()));
                    (1..self.seat.size).for_each(end);
                } else if !desk.is_over {
                    desk.post_now(0, Head::Failed(fault));
                    // a launcher ends all when one ends: first the state is saved
                    while !desk.is_over && desk.attend().is_ok() {}
                }
                if let Some(post) = desk.post.take() {
                    post.close(false);
                }
            }
            _ => {
                drop(desk);
                self.leave();
            }
        }
        result
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collective for ProcessGroup {
    fn rank(&self) -> usize {
        self.seat.rank
    }

    fn size(&self) -> usize {
        self.seat.size
    }

    fn sum(&self, own: Vec<Sums>) -> Result<Sums> {
        chain::sum(&mut self.desk(), own)
    }

    fn broadcast(&self, own: Vec<u8>) -> Result<Vec<u8>> {
        chain::broadcast(&mut self.desk(), own)
    }

    fn gather(&self) -> Result<()> {
        if self.seat.rank == 0 { self.reports().map(drop) } else { self.report(Vec::new()) }
    }
}

impl Desk {
    /// Sends when not too much is on its way already.
    pub(super) fn send(&mut self, to: usize, message: Message) -> Result<()> {
        while self.post.as_ref().is_some_and(Post::is_full) {
            interrupt::check()?;
            self.attend()?;
        }
        self.post.as_ref().ok_or_else(left)?.send(to, message)
    }

    /// The next message of process `from`.
    pub(super) fn next(&mut self, from: usize) -> Result<Message> {
        loop {
            if let Some(message) = self.came.get_mut(from).and_then(VecDeque::pop_front) {
                return Ok(message);
            }
            interrupt::check()?;
            self.attend()?;
        }
    }

    /// A report that has come, and who made it.
    fn report(&mut self) -> Result<Option<(usize, Vec<u8>)>> {
        let first = |(from, came): (usize, &mut VecDeque<Message>)| Some((from, came.pop_front()?));
        match self.came.iter_mut().enumerate().find_map(first) {
            Some((from, Message { head: Head::Report, data })) => Ok(Some((from, data))),
            Some((_, other)) => Err(out_of_turn(&other)),
            None => Ok(None),
        }
    }

    /// Sends at once; that it cannot be is no further fault.
    fn post_now(&self, to: usize, head: Head) {
        drop(self.post.as_ref().map(|post| post.send(to, Message::new(head, Vec::new()))));
    }

    /// Takes in what there is to tell, within a moment.
    fn attend(&mut self) -> Result<()> {
        let event = self.post.as_ref().ok_or_else(left)?.event()?;
        event.map_or(Ok(()), |event| self.take_in(event))
    }

    /// Takes in what has come already.
    fn glance(&mut self) -> Result<()> {
        while let Some(event) = self.post.as_ref().ok_or_else(left)?.event_now()? {
            self.take_in(event)?;
        }
        Ok(())
    }

    fn take_in(&mut self, event: Event) -> Result<()> {
        let size = self.seat.size;
        match event {
            Event::Came(from, Message { head: Head::Failed(fault), .. }) => {
                Err(fault.met_by(&format!("process {from} of {size} (from 0)")))
            }
            Event::Came(_, Message { head: Head::End(fault), .. }) => {
                self.is_over = true;
                Err(fault.met_by(&format!("process {} of {size} ends with process 0", self.seat.rank)))
            }
            Event::Came(from, message) => {
                self.came.get_mut(from).ok_or_else(|| out_of_turn(&message))?.push_back(message);
                Ok(())
            }
            Event::Silent(rank) => {
                self.is_over |= rank == 0;
                let seconds = self.patience.as_secs_f64();
                let fault = format!("process {rank} of {size} (from 0) has not been heard of for {seconds} s");
                Err(Error::work(format!("{fault} (--rank-timeout): it is taken for dead")))
            }
            Event::Gone(rank) => {
                self.is_over |= rank == 0;
                Err(Error::work(format!("process {rank} of {size} (from 0) has ended without a word: it is dead")))
            }
            Event::Broken(error) => Err(error).context(|| "messages between processes"),
        }
    }
}

fn left() -> Error {
    Error::work("this process has left its group")
}

pub(super) fn out_of_turn(message: &Message) -> Error {
    Error::work(format!("a message out of turn, {:?}: start all processes with one version of prune", message.head))
}
