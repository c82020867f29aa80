//! From responses to programs (lm-evaluation-harness 0.4.13, `tasks/humaneval/utils.py`, `tasks/mbpp/utils.py`).

use std::sync::LazyLock;

use crate::eval::python::Pattern;

/// What was begun in the prompt and goes on in the response: up to the end of its block of code, where `block` says so.
pub(super) fn begun(prompt: &str, response: &str, block: bool) -> String {
    let code = response.split("```").next().filter(|_| block).unwrap_or(response);
    format!("{prompt}{code}")
}

/// The first block of code in a response that stands behind the sign of one; nothing where there is none.
///
/// # Errors
/// A response that takes too many steps.
pub(super) fn block(response: &str) -> Result<String, String> {
    static BLOCK: LazyLock<Result<Pattern, String>> = LazyLock::new(|| Pattern::new(r"(?s)```(?:\w+)?\n?(.*?)\n?```"));
    let block = BLOCK.as_ref().map_err(Clone::clone)?;
    let found = block.find_all(&format!("```{response}"))?;
    let found = if found.is_empty() { block.find_all(&response.replace("```python", "```"))? } else { found };
    Ok(found.first().map(|found| found.first().to_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are of the harness's own functions.
    #[test]
    fn programs_of_responses() {
        assert_eq!(begun("def f():\n", "    return 1\n```\nSo", true), "def f():\n    return 1\n");
        assert_eq!(begun("def f():\n", "    return '```'", false), "def f():\n    return '```'");
        for (response, expected) in [
            ("x = 1\n```\nDone", " = 1"),
            ("python\nx = 1\n```", "x = 1"),
            ("\nx = 1\n\n```\n```python\ny\n```", "x = 1\n"),
            ("x = 1", ""),
            ("def f(a):\n    return a\n```", " f(a):\n    return a"),
        ] {
            assert_eq!(block(response).unwrap(), expected, "{response:?}");
        }
    }
}
