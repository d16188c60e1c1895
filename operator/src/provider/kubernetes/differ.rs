//! Whether an object is as it was built: pure.

use kv_core::control::digest;
use serde_json::{Value, json};

use super::names;
use crate::crd::quantity;

/// The object with an annotation that tells what it was built as, so that the removal of a field is noticed too.
#[must_use]
pub fn stamped(mut object: Value) -> Value {
    let stamp = digest(object.to_string().as_bytes());
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        names::merge(annotations, json!({ names::APPLIED: stamp }));
    }
    object
}

/// The first field in which a live object departs from the wanted one, as a path; `None` if it has all that is wanted.
/// What others added to it does not count.
#[must_use]
pub fn difference(wanted: &Value, live: &Value) -> Option<String> {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().find_map(|(name, wanted)| {
            let inner = match live.get(name) {
                Some(live) => difference(wanted, live)?,
                // The API server leaves out what is empty.
                None if is_empty(wanted) => return None,
                None => String::new(),
            };
            Some(format!(".{name}{inner}"))
        }),
        (Value::Array(wanted), Value::Array(live)) if wanted.len() == live.len() => {
            wanted.iter().zip(live).enumerate().find_map(|(index, (wanted, live))| {
                difference(wanted, live).map(|inner| format!("[{index}]{inner}"))
            })
        }
        _ if wanted == live || same_quantity(wanted, live) => None,
        _ => Some(String::new()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        Value::Null => true,
        _ => false,
    }
}

/// The API server writes quantities in its own way: 1024Mi becomes 1Gi.
fn same_quantity(wanted: &Value, live: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::String(text) => quantity(text),
        Value::Number(number) => number.as_f64(),
        _ => None,
    };
    matches!((number(wanted), number(live)), (Some(wanted), Some(live)) if (wanted - live).abs() <= wanted.abs() * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wanted_counts() {
        let cases = [
            (json!({"a": 1}), json!({"a": 1, "b": 2}), None),
            (json!({"a": 1}), json!({"a": 2}), Some(".a")),
            (json!({"a": {"b": [1, {"c": 2}]}}), json!({"a": {"b": [1, {"c": 3}]}}), Some(".a.b[1].c")),
            (json!({"a": [1]}), json!({"a": [1, 2]}), Some(".a")),
            (json!({"a": {}}), json!({}), None),
            (json!({"a": {"b": 1}}), json!({}), Some(".a")),
            (json!({"storage": "1024Mi"}), json!({"storage": "1Gi"}), None),
            (json!({"cpu": 1}), json!({"cpu": "1000m"}), None),
            (json!({"storage": "1Gi"}), json!({"storage": "2Gi"}), Some(".storage")),
        ];
        for (wanted, live, expected) in cases {
            assert_eq!(difference(&wanted, &live).as_deref(), expected, "{wanted} {live}");
        }
    }

    #[test]
    fn a_removed_field_changes_the_stamp() {
        let with = stamped(json!({"metadata": {"name": "a"}, "spec": {"b": 1, "c": 2}}));
        let without = stamped(json!({"metadata": {"name": "a"}, "spec": {"b": 1}}));
        assert_eq!(
            difference(&without, &with).as_deref(),
            Some(".metadata.annotations.kvcluster.io/applied")
        );
        assert_eq!(difference(&with, &with), None);
    }
}
