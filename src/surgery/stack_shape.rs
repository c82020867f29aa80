//! Numbers in a config that give layers their kind by place: the first so many, every so many. In the new stack the
//! layers must still come out as what they were.

use serde_json::{Map, Value, json};

use super::config::ConfigEdit;
use super::layer_keys::{List, PERIODS, Period, SPLITS, Split, TIES};
use super::per_layer::Allowed;
use super::places::Places;
use super::stack_config::StackConfig;
use crate::{Error, Result};

/// Adds the edits that keep every kept layer's kind.
pub(super) fn edits(
    stack: &StackConfig<'_>,
    places: &Places,
    allowed: Allowed<'_>,
    edits: &mut Vec<ConfigEdit>,
) -> Result<()> {
    for split in SPLITS.iter().filter(|split| !allowed.has(split.key)) {
        edits.extend(split_edit(split, stack, places.layers())?);
    }
    for period in PERIODS.iter().filter(|period| !allowed.has(period.key)) {
        edits.extend(period_edits(period, stack, places.layers())?);
    }
    if !allowed.has(STEP) {
        step_edits(stack, places.layers(), edits);
    }
    if !RANGE.iter().any(|key| allowed.has(key)) {
        edits.extend(range_edits(stack, places.layers())?);
    }
    for (key, why) in TIES.iter().filter(|(key, _)| !allowed.has(key)) {
        if let Some(count) = stack.keys.get(*key).and_then(Value::as_u64).filter(|count| *count > 0) {
            return Err(Error::request(format!(
                "config.json: `{key}` is {count}: {why}; such models are not cut or grown"
            )));
        }
    }
    Ok(())
}

/// The number of kept layers below the split.
///
/// # Errors
/// Request: a layer below the split that stands above one from beyond it.
fn split_edit(split: &Split, stack: &StackConfig<'_>, kept: &[usize]) -> Result<Option<ConfigEdit>> {
    let config = stack.keys;
    let stated = config.get(split.key);
    let assumed = || {
        let read = split.only_if.is_none_or(|key| config.get(key) == Some(&Value::Bool(true)));
        let unsaid = read && !is_list(config, split.list);
        unsaid.then(|| stack.default(split.defaults)).flatten()
    };
    let before = match stated {
        Some(value) => value.as_u64(),
        None => assumed(),
    };
    let Some(before) = before else { return Ok(None) };
    // beyond the stack no layer is above it, and none may come to be
    if before > stack.layers as u64 {
        return Ok((kept.len() as u64 > before).then(|| stack.set(split.key, json!(kept.len()))));
    }
    let is_below = |layer: &usize| (*layer as u64) < before;
    if !is_list(config, split.list) && !kept.is_sorted_by_key(|layer| !is_below(layer)) {
        return Err(Error::request(format!(
            "config.json: `{}` is {before}: the layers below it are of another kind, and the plan puts one of them \
             above the others; keep the kinds apart, or pass --allow-unsliced {} if no layer depends on it",
            split.key, split.key
        )));
    }
    let after = kept.iter().filter(|layer| is_below(layer)).count() as u64;
    Ok((after != before).then(|| stack.set(split.key, json!(after))))
}

/// Every so many layers have experts, but for those of a list.
const STEP: &str = "decoder_sparse_step";
/// The list, of numbers of layers.
const WITHOUT_EXPERTS: &str = "mlp_only_layers";

/// Where layers would change their kind by [`STEP`], all without experts are listed, and the step is one.
fn step_edits(stack: &StackConfig<'_>, kept: &[usize], edits: &mut Vec<ConfigEdit>) {
    let step = stack.keys.get(STEP).and_then(Value::as_u64).filter(|step| *step > 1);
    let Some(step) = step else { return };
    let has_experts = |layer: usize| (layer as u64 + 1).is_multiple_of(step);
    if kept.iter().enumerate().all(|(new, old)| has_experts(new) == has_experts(*old)) {
        return;
    }
    let listed = stack.keys.get(WITHOUT_EXPERTS).and_then(Value::as_array);
    let is_listed = |layer: usize| listed.is_some_and(|list| list.iter().any(|own| own.as_u64() == Some(layer as u64)));
    let without = kept.iter().enumerate().filter(|(_, old)| !has_experts(**old) || is_listed(**old));
    let without: Vec<usize> = without.map(|(new, _)| new).collect();
    let list = stack.set(WITHOUT_EXPERTS, json!(without));
    edits.retain(|edit| edit.key != list.key);
    edits.extend([list, stack.set(STEP, json!(1))]);
}

/// The first and the last layer that has experts, and that every so many of those between have some.
const RANGE: [&str; 3] = ["moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval"];
/// Values of `model_type` whose readers assume numbers where the keys are absent, and which; -1 is the last layer.
const RANGES: &[(&str, [i64; 3])] = &[("ernie4_5_moe", [1, -1, 1])];

/// The numbers of [`RANGE`] that leave every kept layer its kind, as few of them new as can be.
///
/// # Errors
/// Request: there are none, or the keys hold no numbers.
fn range_edits(stack: &StackConfig<'_>, kept: &[usize]) -> Result<Vec<ConfigEdit>> {
    let model_type = stack.keys.get("model_type").and_then(Value::as_str);
    let assumed = RANGES.iter().find(|(name, _)| Some(*name) == model_type).map(|(_, numbers)| *numbers);
    let stated = RANGE.map(|key| stack.keys.get(key).filter(|value| !value.is_null()));
    if assumed.is_none() && stated.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let mut before = assumed.unwrap_or([0, -1, 1]);
    for ((key, stated), number) in RANGE.iter().zip(stated).zip(&mut before) {
        let Some(value) = stated else { continue };
        *number = value.as_i64().filter(|number| *number >= -1).ok_or_else(|| {
            Error::request(format!(
                "config.json: `{key}` is {value}, and what becomes of it in another stack is not known; if it stays \
                 right as it is, pass --allow-unsliced {key}"
            ))
        })?;
    }
    let has_experts = |layer: usize, layers: usize, [first, last, step]: [i64; 3]| {
        let last = if last == -1 { layers as i64 - 1 } else { last };
        (layer as i64 + 1) % step.max(1) == 0 && (first..=last).contains(&(layer as i64))
    };
    let wanted: Vec<bool> = kept.iter().map(|layer| has_experts(*layer, stack.layers, before)).collect();
    let [first, last, step] = before;
    let one_with = |new: Option<usize>| new.unwrap_or(kept.len()) as i64;
    let firsts = [first, one_with(wanted.iter().position(|wanted| *wanted))];
    let lasts = [last, one_with(wanted.iter().rposition(|wanted| *wanted))];
    let all = [step, 1].into_iter().flat_map(|step| {
        lasts.into_iter().flat_map(move |last| firsts.into_iter().map(move |first| [first, last, step]))
    });
    let fits = |after: &[i64; 3]| {
        wanted.iter().enumerate().all(|(new, wanted)| has_experts(new, kept.len(), *after) == *wanted)
    };
    let Some(after) = all.into_iter().find(fits) else {
        return Err(Error::request(format!(
            "config.json: `{}` to `{}` says which layers have experts, and in the new stack layers would change their \
             kind; keep the kinds apart, or pass --allow-unsliced {} if no layer depends on it",
            RANGE[0], RANGE[1], RANGE[0]
        )));
    };
    let changed = RANGE.into_iter().zip(before.into_iter().zip(after)).filter(|(_, (before, after))| before != after);
    Ok(changed.map(|(key, (_, after))| stack.set(key, json!(after))).collect())
}

fn period_edits(period: &Period, stack: &StackConfig<'_>, kept: &[usize]) -> Result<Vec<ConfigEdit>> {
    let config = stack.keys;
    let stated = config.get(period.key).filter(|value| !value.is_null());
    let length = match stated {
        Some(Value::String(pattern)) => Some(pattern.len() as u64),
        Some(value) => value.as_u64(),
        None => stack.default(period.readers),
    };
    let Some(length) = length.filter(|length| *length > 1) else { return Ok(Vec::new()) };
    let kind = |layer: usize, list: &List| (list.value)(layer as u64, length);
    let same = match (&period.list, stated) {
        (Some(list), Some(Value::Number(_)) | None) => {
            kept.iter().enumerate().all(|(new, old)| kind(new, list) == kind(*old, list))
        }
        _ => kept.iter().enumerate().all(|(new, old)| new as u64 % length == *old as u64 % length),
    };
    if same {
        return Ok(Vec::new());
    }
    let removal = || stated.map(|_| stack.remove(period.key));
    match &period.list {
        // the list was sliced and is what readers believe; the number would contradict it
        Some(list) if is_list(config, list.key) => Ok(removal().into_iter().collect()),
        Some(list) if stack.default(period.readers).is_some() && !stated.is_some_and(Value::is_string) => {
            let values: Vec<Value> = kept.iter().map(|layer| kind(*layer, list)).collect();
            let spelled_out = stack.set(list.key, Value::Array(values));
            Ok([spelled_out].into_iter().chain(removal()).collect())
        }
        _ => Err(Error::request(format!(
            "config.json: `{}` repeats a kind of layer every {length} layers, and in the new stack layers would change \
             their kind; drop or repeat a multiple of {length} layers in a row, or pass --allow-unsliced {} if no layer depends \
             on it",
            period.key, period.key
        ))),
    }
}

fn is_list(config: &Map<String, Value>, key: &str) -> bool {
    config.get(key).is_some_and(|value| value.as_array().is_some_and(|list| !list.is_empty()))
}
