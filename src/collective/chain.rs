//! Sums and announcements along a chain of processes.
//!
//! A sum goes up the chain, from process 0 to the last, each of which adds what its micro-batches gave, one after the
//! other; so the order is that of the micro-batches. What the last one has goes down again and is everyone's. It goes
//! in pieces, so that all links of the chain work at once. Whatever the number of processes and of micro-batches, a
//! process sends the gradients twice, the first and the last once.

use std::collections::{BTreeMap, VecDeque};

use candle_core::{Device, Tensor};

use super::group::{Desk, out_of_turn};
use super::message::{Head, Message};
use super::{Gradients, PassLoss, Sums};
use crate::{Error, Result, ops};

/// Numbers, or bytes, of a piece.
const PIECE: usize = 1 << 20;

/// Gives everyone what process 0 has.
pub(super) fn broadcast(desk: &mut Desk, own: Vec<u8>) -> Result<Vec<u8>> {
    let (rank, last) = (desk.seat.rank, desk.seat.size - 1);
    if rank == 0 {
        let mut pieces = own.chunks(PIECE).collect::<VecDeque<_>>();
        loop {
            let piece = pieces.pop_front().unwrap_or_default();
            if last > 0 {
                desk.send(1, Message::new(Head::Piece { last: pieces.is_empty() }, piece.to_vec()))?;
            }
            if pieces.is_empty() {
                return Ok(own);
            }
        }
    }
    let mut whole = Vec::new();
    loop {
        let message = desk.next(rank - 1)?;
        let Head::Piece { last: is_last } = message.head else { return Err(out_of_turn(&message)) };
        whole.extend_from_slice(&message.data);
        if rank < last {
            desk.send(rank + 1, message)?;
        }
        if is_last {
            return Ok(whole);
        }
    }
}

/// Adds up what all processes have, in their order.
pub(super) fn sum(desk: &mut Desk, own: Vec<Sums>) -> Result<Sums> {
    let (rank, last) = (desk.seat.rank, desk.seat.size - 1);
    let (mut own, mut losses) = (Parts::of(own), Vec::new());
    losses.append(&mut own.losses);
    let mut sums = Gathered::default();
    // up
    let mut loss = if rank == 0 { None } else { Some(own.join(desk, &mut sums)?) };
    own.rest(desk, &mut sums, None)?;
    for part in losses {
        loss = Some(loss.map_or(part, |before| added(before, &part)));
    }
    let loss = loss.unwrap_or_default();
    if rank < last {
        desk.send(rank + 1, Message::new(Head::Loss(bits(&loss)), Vec::new()))?;
    } else {
        return sums.finish(desk, loss);
    }
    // down
    loop {
        let message = desk.next(rank + 1)?;
        match message.head {
            Head::Numbers { name, shape, start } => {
                let (numbers, place) = (floats(&message.data)?, (name.as_str(), &shape[..], start));
                sums.take(desk, place, &numbers)?;
            }
            Head::Loss(bits) => return sums.finish(desk, of_bits(bits)),
            _ => return Err(out_of_turn(&message)),
        }
    }
}

/// What this process's micro-batches gave of each gradient, in their order.
struct Parts {
    gradients: BTreeMap<String, Vec<Tensor>>,
    losses: Vec<PassLoss>,
}

impl Parts {
    fn of(own: Vec<Sums>) -> Self {
        let mut parts = Self { gradients: BTreeMap::new(), losses: Vec::new() };
        for Sums { loss, gradients } in own {
            parts.losses.push(loss);
            for (name, gradient) in gradients {
                parts.gradients.entry(name).or_default().push(gradient);
            }
        }
        parts
    }

    /// Adds to the sums of the processes before, which come in the order of the names, and passes them on; the sums of
    /// their losses.
    fn join(&mut self, desk: &mut Desk, sums: &mut Gathered) -> Result<PassLoss> {
        let before = desk.seat.rank - 1;
        let mut here: Option<(String, Vec<Vec<f32>>)> = None;
        loop {
            let message = desk.next(before)?;
            let (name, shape, start) = match message.head {
                Head::Numbers { name, shape, start } => (name, shape, start),
                Head::Loss(bits) => return Ok(of_bits(bits)),
                _ => return Err(out_of_turn(&message)),
            };
            if here.as_ref().is_none_or(|(own, _)| *own != name) {
                self.rest(desk, sums, Some(&name))?;
                let parts = self.gradients.remove(&name).unwrap_or_default();
                here = Some((name.clone(), parts.iter().map(values).collect::<Result<_>>()?));
            }
            let mut numbers = floats(&message.data)?;
            for part in here.iter().flat_map(|(_, parts)| parts) {
                add(&mut numbers, part.get(start..).unwrap_or_default(), &name)?;
            }
            pass_on(desk, sums, (&name, &shape, start), &numbers)?;
        }
    }

    /// Passes on what no process before has: the gradients with names before `until`, or all.
    fn rest(&mut self, desk: &mut Desk, sums: &mut Gathered, until: Option<&str>) -> Result<()> {
        while let Some(entry) = self.gradients.first_entry() {
            if until.is_some_and(|until| entry.key().as_str() >= until) {
                break;
            }
            let (name, parts) = entry.remove_entry();
            let mut parts = parts.into_iter();
            let Some(first) = parts.next() else { continue };
            let (shape, mut numbers) = (first.dims().to_vec(), values(&first)?);
            parts.try_for_each(|part| add(&mut numbers, &values(&part)?, &name))?;
            for (index, piece) in numbers.chunks(PIECE).enumerate() {
                pass_on(desk, sums, (&name, &shape, index * PIECE), piece)?;
            }
        }
        Ok(())
    }
}

/// A sum as far as it is known, up the chain; from its end on it is everyone's.
fn pass_on(desk: &mut Desk, sums: &mut Gathered, place: (&str, &[usize], usize), numbers: &[f32]) -> Result<()> {
    match desk.seat.rank + 1 {
        next if next < desk.seat.size => desk.send(next, message(place, numbers)),
        _ => sums.take(desk, place, numbers),
    }
}

/// Sums over all processes, as they come.
#[derive(Default)]
struct Gathered {
    gradients: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Gathered {
    /// Keeps numbers, and passes them down.
    fn take(&mut self, desk: &mut Desk, place: (&str, &[usize], usize), numbers: &[f32]) -> Result<()> {
        let (name, shape, start) = place;
        let (_, known) = self
            .gradients
            .entry(name.to_owned())
            .or_insert_with(|| (shape.to_vec(), Vec::with_capacity(shape.iter().product())));
        if known.len() != start {
            return Err(Error::work(format!("{name}: numbers from {start} on come after {}", known.len())));
        }
        known.extend_from_slice(numbers);
        match desk.seat.rank.checked_sub(1) {
            Some(below) => desk.send(below, message(place, numbers)),
            None => Ok(()),
        }
    }

    fn finish(self, desk: &mut Desk, loss: PassLoss) -> Result<Sums> {
        if let Some(below) = desk.seat.rank.checked_sub(1) {
            desk.send(below, Message::new(Head::Loss(bits(&loss)), Vec::new()))?;
        }
        let whole = |(name, (shape, numbers)): (String, (Vec<usize>, Vec<f32>))| {
            Ok((name, Tensor::from_vec(numbers, shape, &Device::Cpu)?))
        };
        let gradients = self.gradients.into_iter().map(whole).collect::<Result<Gradients>>()?;
        Ok(Sums { loss, gradients })
    }
}

fn message((name, shape, start): (&str, &[usize], usize), numbers: &[f32]) -> Message {
    // not as an iterator of bytes, which takes longer than to send them
    let mut data = vec![0; 4 * numbers.len()];
    data.as_chunks_mut::<4>().0.iter_mut().zip(numbers).for_each(|(bytes, number)| *bytes = number.to_le_bytes());
    Message::new(Head::Numbers { name: name.to_owned(), shape: shape.to_vec(), start }, data)
}

fn floats(data: &[u8]) -> Result<Vec<f32>> {
    let (numbers, rest) = data.as_chunks::<4>();
    match rest.is_empty() {
        true => Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        false => Err(Error::work("a message ends within a number")),
    }
}

fn values(gradient: &Tensor) -> Result<Vec<f32>> {
    ops::numbers(&gradient.contiguous()?, <[f32]>::to_vec)
}

fn add(sum: &mut [f32], part: &[f32], name: &str) -> Result<()> {
    if part.len() < sum.len() {
        return Err(Error::work(format!("the gradient of {name} has another size in another process")));
    }
    sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    Ok(())
}

fn added(before: PassLoss, part: &PassLoss) -> PassLoss {
    PassLoss {
        loss: before.loss + part.loss,
        cross_entropy: before.cross_entropy + part.cross_entropy,
        hidden: before.hidden + part.hidden,
    }
}

fn bits(loss: &PassLoss) -> [u64; 3] {
    [loss.loss, loss.cross_entropy, loss.hidden].map(f64::to_bits)
}

fn of_bits(bits: [u64; 3]) -> PassLoss {
    let [loss, cross_entropy, hidden] = bits.map(f64::from_bits);
    PassLoss { loss, cross_entropy, hidden }
}
