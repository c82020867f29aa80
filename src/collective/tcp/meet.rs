//! How processes find each other: all come to process 0, which tells each where the others listen.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checkpoint::machine;
use crate::collective::message::Fault;
use crate::{Error, Result};

/// What each message here begins with; the last byte is the version.
const MAGIC: [u8; 8] = *b"prune\0\0\x01";
/// Bytes of a message at most.
const MOST: u32 = 1 << 24;
/// How long one that connects may take to say who it is.
const HELLO: Duration = Duration::from_secs(5);
/// Between two looks at whether someone has come.
const PAUSE: Duration = Duration::from_millis(20);
/// How much longer one waits for what process 0 says than process 0 waits for the others.
const GRACE: Duration = Duration::from_secs(2);

/// The process itself.
pub(super) struct Own<'a> {
    pub(super) rank: usize,
    pub(super) size: usize,
    /// When all must have met.
    pub(super) until: Instant,
    /// Where process 0 is, for messages.
    pub(super) said: &'a str,
}

/// Connections to all other processes.
pub(super) struct Met {
    /// By their numbers; none to oneself.
    pub(super) streams: Vec<Option<TcpStream>>,
    /// How many share this machine's memory, this one included.
    pub(super) on_this_machine: usize,
}

/// Who a process is that comes.
#[derive(Serialize, Deserialize)]
struct Hello {
    rank: usize,
    size: usize,
    /// Where it listens itself.
    port: u16,
    machine: String,
}

/// Where a process listens.
#[derive(Serialize, Deserialize)]
struct Place {
    /// `None` of one on the machine of process 0.
    host: Option<IpAddr>,
    port: u16,
    machine: String,
}

/// What process 0 says to those that have come.
#[derive(Serialize, Deserialize)]
enum Answer {
    /// All are there.
    Places(Vec<Place>),
    Refused(Fault),
}

struct Guest {
    stream: TcpStream,
    hello: Hello,
    host: IpAddr,
}

/// Process 0's part.
///
/// # Errors
/// Work: who does not come in time, by number. Request: who was not started together with this one.
pub(super) fn welcome(own: &Own, listener: &TcpListener) -> Result<Met> {
    let mut guests: Vec<Option<Guest>> = (0..own.size).map(|_| None).collect();
    let mut odd = None;
    let all = receive(own, listener, &mut guests, &mut odd);
    let answer = match &all {
        Ok(()) => Answer::Places(guests.iter().map(place).collect()),
        Err(error) => Answer::Refused(Fault::of(error)),
    };
    for Guest { stream, .. } in guests.iter_mut().chain([&mut odd]).flatten() {
        // who does not hear it is missed soon enough
        drop(write(stream, &answer));
    }
    all?;
    let machine = machine();
    let here = guests.iter().flatten().filter(|guest| guest.hello.machine == machine).count();
    Ok(Met { streams: guests.into_iter().map(|guest| Some(guest?.stream)).collect(), on_this_machine: 1 + here })
}

/// Waits until all have come. One that cannot be is `odd`.
fn receive(own: &Own, listener: &TcpListener, guests: &mut [Option<Guest>], odd: &mut Option<Guest>) -> Result<()> {
    let &Own { size, until, said, .. } = own;
    loop {
        let missing: Vec<usize> = (1..size).filter(|rank| guests.get(*rank).is_none_or(Option::is_none)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let Some(guest) = next(listener, until)? else {
            let missing: Vec<String> = missing.iter().map(usize::to_string).collect();
            let (missing, those) = (missing.join(", "), if missing.len() == 1 { "has" } else { "have" });
            return Err(Error::work(format!(
                "process {missing} of {size} (from 0) {those} not come to {said} in time: are all started? --rank-timeout \
                 waits longer"
            )));
        };
        let (rank, of) = (guest.hello.rank, guest.hello.size);
        let place = guests.get_mut(rank).filter(|_| rank > 0 && of == size);
        match place {
            Some(place) if place.as_ref().is_none_or(|before| !is_open(&before.stream)) => *place = Some(guest),
            _ => {
                *odd = Some(guest);
                return Err(Error::request(match of == size {
                    true => format!(
                        "{said}: two processes say that they are process {rank} of {size}: is another run \
                                     at this port?"
                    ),
                    false => format!(
                        "{said}: process {rank} was started as one of {of}, process 0 as one of {size}: \
                                      start all alike"
                    ),
                }));
            }
        }
    }
}

/// The part of all others.
///
/// # Errors
/// Work: process 0 or another one is not reached in time. What process 0 says.
pub(super) fn join(own: &Own, host: &str, port: u16) -> Result<Met> {
    let &Own { rank, size, until, said } = own;
    let listener = listen(0).map_err(|error| Error::work(format!("no port to listen at: {error}")))?;
    let at = listener.local_addr().map_err(|error| Error::work(error.to_string()))?.port();
    let hello = Hello { rank, size, port: at, machine: machine() };
    let mut first = connect(host, port, until)
        .map_err(|error| Error::work(format!("{said}: process 0 is not reached: {error}")))?;
    let answer = first.set_read_timeout(Some(left(until) + GRACE)).and_then(|()| {
        write(&mut first, &hello)?;
        read(&mut first)
    });
    let places = match answer {
        Ok(Answer::Places(places)) => places,
        Ok(Answer::Refused(fault)) => return Err(fault.met_by(&format!("process 0 of {size}"))),
        Err(error) => {
            return Err(Error::work(format!("{said}: no answer of process 0 of this version of prune: {error}")));
        }
    };
    let mut streams: Vec<Option<TcpStream>> = (0..size).map(|_| None).collect();
    for (other, (stream, place)) in streams.iter_mut().zip(&places).enumerate().take(rank).skip(1) {
        let host = place.host.map_or_else(|| host.to_owned(), |host| host.to_string());
        let unreached = |error| Error::work(format!("process {other} of {size} (from 0) at {host}: {error}"));
        let mut there = connect(&host, place.port, until).map_err(unreached)?;
        write(&mut there, &hello).map_err(unreached)?;
        *stream = Some(there);
    }
    if let Some(stream) = streams.first_mut() {
        *stream = Some(first);
    }
    while streams.iter().skip(rank + 1).any(Option::is_none) {
        let guest = next(&listener, until + GRACE)?;
        let guest = guest.ok_or_else(|| Error::work(format!("not all of {size} processes have connected in time")))?;
        if let Some(place @ None) = streams.get_mut(guest.hello.rank).filter(|_| guest.hello.rank > rank) {
            *place = Some(guest.stream);
        }
    }
    let here = places.iter().filter(|place| place.machine == hello.machine).count();
    Ok(Met { streams, on_this_machine: here })
}

/// The next process that comes; those that speak otherwise are sent away.
fn next(listener: &TcpListener, until: Instant) -> Result<Option<Guest>> {
    let fault = |error: io::Error| Error::work(format!("waiting for the other processes: {error}"));
    listener.set_nonblocking(true).map_err(fault)?;
    loop {
        match listener.accept() {
            Ok((mut stream, from)) => {
                let hello = prepare(&stream, HELLO).and_then(|()| read(&mut stream));
                if let Ok(hello) = hello {
                    return Ok(Some(Guest { stream, hello, host: from.ip().to_canonical() }));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err(fault(error)),
        }
        if Instant::now() >= until {
            return Ok(None);
        }
    }
}

fn place(guest: &Option<Guest>) -> Place {
    match guest {
        None => Place { host: None, port: 0, machine: machine() },
        Some(Guest { hello, host, .. }) => Place {
            host: Some(*host).filter(|host| !host.is_loopback()),
            port: hello.port,
            machine: hello.machine.clone(),
        },
    }
}

/// Listens on all addresses of this machine.
///
/// # Errors
/// The system's.
pub(super) fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|error| match error.kind() {
        ErrorKind::AddrInUse | ErrorKind::PermissionDenied => Err(error),
        // a machine without IPv6
        _ => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
    })
}

/// Connects, however often that takes until then.
///
/// # Errors
/// That of the last try.
pub(super) fn connect(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    loop {
        let tried = (host, port).to_socket_addrs().and_then(|addresses| {
            let mut last = io::Error::new(ErrorKind::NotFound, "no such machine");
            for address in addresses {
                match TcpStream::connect_timeout(&address, left(until).clamp(PAUSE, HELLO)) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        });
        match tried {
            Ok(stream) => return prepare(&stream, HELLO).map(|()| stream),
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => thread::sleep(5 * PAUSE),
        }
    }
}

/// What is left until then; never nothing, which sockets take for ever.
pub(super) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(PAUSE)
}

fn prepare(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))
}

/// Whether the other end is still there.
fn is_open(stream: &TcpStream) -> bool {
    let looked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let is_open = match looked {
        Ok(bytes) => bytes > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    };
    is_open && stream.set_nonblocking(false).is_ok()
}

/// [`MAGIC`], the length (u32, little endian), JSON.
fn write(stream: &mut TcpStream, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&[&MAGIC[..], &length.to_le_bytes(), &text].concat())
}

fn read<T: DeserializeOwned>(stream: &mut TcpStream) -> io::Result<T> {
    let in_time = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => io::Error::new(ErrorKind::TimedOut, "nothing in time"),
        ErrorKind::UnexpectedEof => io::Error::new(ErrorKind::UnexpectedEof, "the connection is closed"),
        _ => error,
    };
    let (mut magic, mut length) = ([0; 8], [0; 4]);
    stream.read_exact(&mut magic).map_err(in_time)?;
    stream.read_exact(&mut length).map_err(in_time)?;
    let length = u32::from_le_bytes(length);
    if magic != MAGIC || length > MOST {
        return Err(io::Error::new(ErrorKind::InvalidData, "another program listens there"));
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text).map_err(in_time)?;
    Ok(serde_json::from_slice(&text)?)
}
