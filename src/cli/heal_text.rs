//! What `prune heal` says when it is done.

use std::fmt::Write as _;

use prune::card::quoted;
use prune::checkpoint::ByteSize;
use prune::commands::heal::{GroupReport, HealReport, HealResult};
use prune::data::Share;
use prune::data::chat::{LossOn, Survey};
use prune::heal::{MeasuredLosses, Paired, Quant};
use prune::shown::shown;

use super::progress::time;

/// All of it, for the terminal.
pub(super) fn text(report: &HealReport) -> String {
    let mut text = String::new();
    let bytes = |key: &str| ByteSize(report.estimate.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0));
    let seconds = report.estimate.get("seconds").and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    let on_host = report.estimate.get("inputs_on_host").and_then(serde_json::Value::as_bool).unwrap_or(false);
    let by_expert = report.estimate.get("experts_on_disk").and_then(serde_json::Value::as_bool).unwrap_or(false);
    let inputs = if on_host { format!(", in main memory {}", bytes("inputs")) } else { String::new() };
    let inputs = if by_expert { format!("{inputs} (experts are read when tokens are sent to them)") } else { inputs };
    if let Some(chat) = &report.chat {
        let _ = writeln!(text, "{}", conversations(chat));
    }
    for share in &report.sources {
        let Share { source, share, taken, sequences, is_guessed, passes } = share;
        let about = if *is_guessed { "about " } else { "" };
        let _ = writeln!(
            text,
            "text      {:.1} % {}: {taken} sequences, each of its {about}{sequences} comes {passes:.2} times",
            100.0 * share,
            shown(source)
        );
    }
    let _ = writeln!(text, "computed  memory {}{inputs}, disk {}", bytes("memory"), bytes("disk"));
    if let Some(group) = &report.group {
        let _ = writeln!(text, "{}", processes(group));
    }
    let Some(result) = &report.result else {
        let _ = writeln!(
            text,
            "estimated {} at the speed of this machine just now, validations and rollouts not counted",
            time(seconds)
        );
        return text + "dry run: nothing trained, nothing written";
    };
    let before = match report.steps_before {
        0 => String::new(),
        steps => format!(" ({steps} of them before)"),
    };
    let _ = writeln!(text, "trained   {} steps{before}, {} tokens", result.steps, result.tokens);
    match &result.measured {
        Some(measured) => text.push_str(&losses(result, measured, report.quant)),
        None => {
            if let Some(training) = training(result) {
                let _ = writeln!(text, "loss      {training}, nats a token, {}", held(report.quant));
            }
        }
    }
    if let Some(out) = &report.out {
        let word = if report.found { "found     finished before with these settings:" } else { "wrote    " };
        let _ = write!(text, "{word} {}", out.display());
        let made = ["merged", "adapter"].map(|part| out.join(part)).into_iter().find(|part| part.is_dir());
        if let Some(made) = made.filter(|_| !report.found) {
            let _ = write!(text, "\npublish   hf upload USER/NAME {}", quoted(&made.display().to_string()));
        }
    }
    text
}

/// Who trains together, and what that takes beside the training.
fn processes(group: &GroupReport) -> String {
    let shares: Vec<String> = group.micro_batches.iter().map(ToString::to_string).collect();
    let sent: Vec<String> = group.sent.iter().map(|bytes| ByteSize(*bytes).to_string()).collect();
    format!(
        "processes {} of {}: micro-batches of a step {}; sent by each {}; memory for the sums of process 0 {}",
        group.members.processes,
        group.members.launcher,
        shares.join(" + "),
        sent.join(", "),
        ByteSize(group.memory)
    )
}

/// What the rows hold, and how much of it is learned.
fn conversations(chat: &Survey) -> String {
    let Survey { form, template, loss_on, rows, whole, tokens, answer_tokens, .. } = chat;
    let template = template.as_ref().map(|name| format!(", template {name}")).unwrap_or_default();
    let learned = if *loss_on == LossOn::Answers { "answers are learned" } else { "all is learned" };
    let rows = if *whole { format!("{rows} rows") } else { format!("the first {rows} rows") };
    format!("rows      {}{template}, {learned}: {rows}, {tokens} tokens, {answer_tokens} of them learned", form.name())
}

/// What the models themselves lose, and beside it what was seen while training.
fn losses(result: &HealResult, measured: &MeasuredLosses, quant: Quant) -> String {
    let mut text = format!("loss on {}, nats a token\n  ", measured.text);
    if let Some(uncut) = measured.uncut {
        let _ = write!(text, "uncut {uncut:.4}   ");
    }
    let _ = write!(text, "cut {:.4}   healed, as written {:.4}: ", measured.cut, measured.healed);
    let Paired { difference, stderr } = measured.gain;
    let error = stderr.map(|stderr| format!(" \u{b1} {stderr:.4} (paired)")).unwrap_or_default();
    let _ = write!(text, "{:.4}{error} {} cut", difference.abs(), if difference < 0.0 { "above" } else { "below" });
    if let Some(undone) = measured.undone_in_words() {
        let _ = write!(text, ", {undone}");
    }
    text.push('\n');
    if let Some(training) = training(result) {
        let _ = write!(text, "  while training, {}: {training}", held(quant));
        if let Some(rounding) = measured.rounding {
            let _ = write!(text, "; rounding the merged weights cost {:.4}", rounding.difference);
        }
        text.push('\n');
    }
    text
}

fn training(result: &HealResult) -> Option<String> {
    let (before, best, step) = (result.loss_before?, result.best_loss?, result.best_step?);
    let accuracy = result.best_accuracy.map(|share| format!(", {:.1} % of the questions right", 100.0 * share));
    Some(format!("{before:.4} -> {best:.4}, best after step {step}{}", accuracy.unwrap_or_default()))
}

/// Which weights the losses while training are of.
fn held(quant: Quant) -> &'static str {
    match quant {
        Quant::Nf4 => "weights in NF4",
        Quant::None => "weights as they are",
    }
}
