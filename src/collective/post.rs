//! The thread that sends and receives for a process, whatever else that computes: so who is there is heard of, and who
//! is not heard of for long is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::message::{Head, Message};
use super::transport::Transport;
use crate::{Error, Result, interrupt};

/// What the thread tells.
#[derive(Debug)]
pub(super) enum Event {
    /// A message from this process.
    Came(usize, Message),
    /// Nothing came of this process for as long as one waits.
    Silent(usize),
    /// This process has ended, and has not said why.
    Gone(usize),
    /// Messages go no more.
    Broken(Error),
}

enum Task {
    Send(usize, Message),
    /// End, together with the others or alone.
    Close {
        together: bool,
    },
}

/// Who and where a process is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) on_this_machine: usize,
}

/// A process's end of the thread.
#[derive(Debug)]
pub(super) struct Post {
    tasks: Sender<Task>,
    events: Receiver<Event>,
    /// Messages that are on their way out.
    waiting: Arc<AtomicUsize>,
    patience: Duration,
}

/// Messages on their way out at most: memory, and no more of them make anything faster.
const MOST: usize = 16;
/// How often a thread that waits looks whether it is to stop.
const GLANCE: Duration = Duration::from_millis(50);
/// Looks at the messages one right after the other before there are pauses between them: an answer often comes at once.
const LOOKS: usize = 64;
const PAUSE: Duration = Duration::from_micros(500);
/// How long a process that ends alone tries to say so.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Post {
    /// Starts the thread, in which `open` makes the transport. Who is silent for `patience` is told.
    ///
    /// # Errors
    /// Those of `open`; Work: it does not come to an end within `patience`. Interrupted.
    pub(super) fn start(
        open: impl FnOnce() -> Result<Box<dyn Transport>> + Send + 'static,
        patience: Duration,
    ) -> Result<(Self, Seat)> {
        let (tasks, to_do) = channel();
        let (tell, events) = channel();
        let (opened, opening) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let load = waiting.clone();
        let work = move || match open() {
            Ok(transport) => {
                let (rank, size) = (transport.rank(), transport.size());
                let seat = Seat { rank, size, on_this_machine: transport.on_this_machine() };
                if opened.send(Ok(seat)).is_ok() {
                    Carrier { transport, seat, tell, load, patience }.carry(&to_do);
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        thread::Builder::new().spawn(work).map_err(|error| Error::work(format!("no further thread: {error}")))?;
        let started = Instant::now();
        let seat = loop {
            match opening.recv_timeout(GLANCE) {
                Ok(seat) => break seat?,
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                // who waits itself says what for
                Err(RecvTimeoutError::Timeout) if started.elapsed() > patience + LAST_WORDS + LAST_WORDS => {
                    let seconds = patience.as_secs();
                    let fault = format!("the processes have not found each other within {seconds} s: are all of them");
                    return Err(Error::work(format!("{fault} started? --rank-timeout waits longer")));
                }
                Err(RecvTimeoutError::Timeout) => interrupt::check()?,
            }
        };
        Ok((Self { tasks, events, waiting, patience }, seat))
    }

    /// Whether as much is on its way out as may be.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= MOST
    }

    pub(super) fn send(&self, to: usize, message: Message) -> Result<()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.tasks.send(Task::Send(to, message)).map_err(|_| gone())
    }

    /// What there is to tell, within a moment.
    pub(super) fn event(&self) -> Result<Option<Event>> {
        match self.events.recv_timeout(GLANCE) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    /// What there is to tell now.
    pub(super) fn event_now(&self) -> Result<Option<Event>> {
        match self.events.try_recv() {
            Ok(event) => Ok(Some(event)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(gone()),
        }
    }

    /// Sends what is on its way, and ends: together with the others, or alone.
    pub(super) fn close(self, together: bool) {
        let deadline = Instant::now() + self.patience;
        drop(self.tasks.send(Task::Close { together }));
        // the events end with the thread
        while Instant::now() < deadline && !matches!(self.event(), Err(_) | Ok(Some(Event::Broken(_)))) {}
    }
}

fn gone() -> Error {
    Error::work("the thread that sends messages to the other processes has ended")
}

/// What the thread works with.
struct Carrier {
    transport: Box<dyn Transport>,
    seat: Seat,
    tell: Sender<Event>,
    load: Arc<AtomicUsize>,
    patience: Duration,
}

impl Carrier {
    fn carry(mut self, to_do: &Receiver<Task>) {
        match self.until_closed(to_do) {
            Ok(true) => self.transport.finish(),
            Ok(false) => self.transport.abandon(),
            Err(error) => {
                drop(self.tell.send(Event::Broken(error)));
                self.transport.abandon();
            }
        }
    }

    /// Carries messages to the end; whether it is one together with the others.
    fn until_closed(&mut self, to_do: &Receiver<Task>) -> Result<bool> {
        // process 0 hears of all, the others of it
        let watched = if self.seat.rank == 0 { 1..self.seat.size } else { 0..1 };
        let every = (self.patience / 10).clamp(Duration::from_millis(20), Duration::from_secs(2));
        let mut heard = vec![Instant::now(); self.seat.size];
        let mut is_silent = vec![false; self.seat.size];
        let (mut beaten, mut idle) = (None::<Instant>, 0_usize);
        let mut closing = None::<(bool, Instant)>;
        let mut looked = Instant::now();
        loop {
            let mut task = to_do.try_recv();
            if idle > LOOKS && matches!(task, Err(TryRecvError::Empty)) {
                task = to_do.recv_timeout(PAUSE).map_err(|error| match error {
                    RecvTimeoutError::Timeout => TryRecvError::Empty,
                    RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                });
            }
            idle += 1;
            match task {
                Ok(Task::Send(to, message)) => {
                    self.transport.send(to, message.to_bytes()?)?;
                    idle = 0;
                }
                Ok(Task::Close { together }) => closing = Some((together, Instant::now())),
                // the process has other things to do than to say goodbye
                Err(TryRecvError::Disconnected) => closing = closing.or(Some((false, Instant::now()))),
                Err(TryRecvError::Empty) => {}
            }
            let now = Instant::now();
            // a process that was stopped and goes on has not listened meanwhile
            if now - looked > every {
                heard.iter_mut().for_each(|heard| *heard += now - looked);
            }
            looked = now;
            while let Some((from, bytes)) = self.transport.receive()? {
                heard[from] = now;
                is_silent[from] = false;
                let message = Message::from_bytes(bytes)?;
                if message.head != Head::Beat {
                    idle = 0;
                    drop(self.tell.send(Event::Came(from, message)));
                }
            }
            while let Some(rank) = self.transport.gone() {
                if watched.contains(&rank) && closing.is_none() {
                    drop(self.tell.send(Event::Gone(rank)));
                }
            }
            if beaten.is_none_or(|beaten| now - beaten >= every) {
                beaten = Some(now);
                let beat = Message::new(Head::Beat, Vec::new()).to_bytes()?;
                watched.clone().try_for_each(|rank| self.transport.send(rank, beat.clone()))?;
            }
            for rank in watched.clone() {
                if !is_silent[rank] && now - heard[rank] > self.patience {
                    is_silent[rank] = true;
                    drop(self.tell.send(Event::Silent(rank)));
                }
            }
            let pending = self.transport.pending();
            self.load.store(pending, Ordering::Relaxed);
            // the rest of a message is there in a moment
            if self.transport.is_moving() {
                idle = idle.min(LOOKS);
            }
            match closing {
                Some((together, since)) if pending == 0 || (!together && since.elapsed() > LAST_WORDS) => {
                    return Ok(together);
                }
                _ => {}
            }
            if idle <= LOOKS {
                thread::yield_now();
            }
        }
    }
}
