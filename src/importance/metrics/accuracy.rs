//! Which share of a task's questions is lost without some layers.

use super::{Evaluate, Metric, Order, Subject, Tokens};

pub(super) const BLOCKS: Metric = Metric {
    name: "accuracy",
    about: "share of the questions of --tasks that is lost without the layers l..=l+n-1; exact, and dear",
    reference: "every candidate of Gromov et al. measured by a task",
    subject: Subject::Block,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Accuracy,
    usual: false,
};

pub(super) const LAYERS: Metric = Metric {
    name: "layer-accuracy",
    about: "share of the questions of --tasks that is lost without layer l alone; drops single layers",
    reference: "Siddiqui et al., A deeper look at depth pruning, arXiv 2407.16286 (tasks for the loss)",
    subject: Subject::Layer,
    ..BLOCKS
};

pub(super) const SUBLAYERS: Metric = Metric {
    name: "sublayer-accuracy",
    about: "share of the questions of --tasks that is lost without one attention or MLP alone",
    reference: "Zhang et al., Investigating Layer Importance, arXiv 2409.14381 (one left out)",
    subject: Subject::SubLayer,
    ..BLOCKS
};
