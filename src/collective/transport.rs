//! What carries messages between the processes of a group.

use crate::Result;

/// Messages between processes, those of any two in the order they were sent in. Nothing here waits but the beginning
/// and the end: who does is [`super::ProcessGroup`], and it knows for how long.
pub trait Transport {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// How many of them share this machine's memory, this one included.
    fn on_this_machine(&self) -> usize;

    /// Begins to send.
    ///
    /// # Errors
    /// Work: it cannot be sent.
    fn send(&mut self, to: usize, message: Vec<u8>) -> Result<()>;

    /// A message that has come, and who sent it.
    ///
    /// # Errors
    /// Work: messages come no more.
    fn receive(&mut self) -> Result<Option<(usize, Vec<u8>)>>;

    /// A process whose connection has ended before it said that it ends; each is told once. Not every transport knows.
    fn gone(&mut self) -> Option<usize> {
        None
    }

    /// Whether a message has come in part. Not every transport knows.
    fn is_moving(&self) -> bool {
        false
    }

    /// Messages that are still on their way out.
    fn pending(&mut self) -> usize;

    /// Ends together with the others, all of whom do the same.
    fn finish(self: Box<Self>);

    /// Ends alone, whatever is still on its way.
    fn abandon(self: Box<Self>);
}
