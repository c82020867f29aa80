//! Healing: fine-tuning what a cut left, with frozen weights in four bits and low-rank adapters, or the last layers
//! whole.
//!
//! `settings` says what can be asked for, `given` what was, `pass` computes gradients, `trainer` makes steps of them
//! with `optimizer` and `schedule`, `follow` is how those of several processes are led, `distilling` how it learns
//! from a teacher, with `hidden` states beside the loss and texts of its own (`writing`, as long as `rollouts` says),
//! `run` is the loop with validations and `state`s to go on from, with the `accuracy` of answers where tasks are
//! named, `journal` its log, `tensorboard` the same for TensorBoard; `merge` writes a model with the adapters in its
//! weights, `measure` says what became of its loss; `plan` says beforehand what all that takes, `needs` of memory.

mod accuracy;
mod checked;
mod choices;
mod deciding;
mod distilling;
mod dora;
mod follow;
mod given;
mod hidden;
mod journal;
mod measure;
mod merge;
mod needs;
mod pass;
mod plan;
mod rollouts;
mod run;
mod samples;
pub mod schedule;
mod settings;
mod settled;
mod state;
mod tensorboard;
mod trainer;
mod writing;

pub use accuracy::{Accuracies, BestBy, ValidationTasks};
pub use choices::{MergeOnto, Quant, Track, Train, TrainedLayers};
pub use distilling::DivergenceKind;
pub use hidden::{HiddenStates, StreamPair};
pub use journal::{Journal, Line, RolloutReport};
pub use measure::{KnownLosses, Losses, MeasuredLosses, Paired, Text, measurement};
pub use merge::Merge;
pub use needs::TeacherSize;
pub use pass::{parameters, targets};

pub use crate::collective::{Gradients, PassLoss};
pub(crate) use plan::check_text;
pub use plan::{Estimate, estimate, load_options, lowest_trained, trained};
pub use rollouts::{RolloutCounts, RolloutLength, RolloutTokens};
pub use run::{HealOutcome, HealRun};
pub use samples::{FixedSamples, Samples, TextSamples};
pub use settings::HealSettings;
pub use state::{Best, TrainerState, WorkDir};
pub use tensorboard::EVENTS;
pub use trainer::{StepReport, Trainer};
