//! The CustomResourceDefinition as it is installed: the derived one, with what cannot be said by a derive.

use std::borrow::Cow;

use kube::CustomResourceExt;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{KvCluster, Scalar};

/// The longest name of a KvCluster: the names of its pods and the labels on them must fit 63 characters.
pub const MAX_NAME: usize = 40;

/// The longest text of a duration: none that is in bounds needs more.
pub const MAX_DURATION: usize = 16;

impl JsonSchema for Scalar {
    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// A map of quantities without the essay on quantities that the API's own type brings into every description.
pub(super) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "x-kubernetes-int-or-string": true },
    })
}

/// The CustomResourceDefinition as JSON.
#[must_use]
pub fn definition() -> Value {
    let mut value = json!(KvCluster::crd());
    tidy(&mut value);
    let root = "/spec/versions/0/schema/openAPIV3Schema";
    if let Some(Value::Object(schema)) = value.pointer_mut(root) {
        schema.insert("x-kubernetes-validations".into(), json!([name_rule()]));
    }
    value
}

/// The CustomResourceDefinition as it lies in `crds/`.
///
/// # Errors
/// If it cannot be written as YAML, which would be a defect of this program.
pub fn definition_yaml() -> Result<String, serde_saphyr::ser::Error> {
    Ok(format!("---\n{}", serde_saphyr::to_string(&definition())?))
}

/// The CustomResourceDefinition as a template of the Helm chart: it is kept when the release is deleted, since all
/// KvClusters would go with it.
///
/// # Errors
/// If it cannot be written as YAML, which would be a defect of this program.
pub fn definition_template() -> Result<String, serde_saphyr::ser::Error> {
    let mut definition = definition();
    if let Some(Value::Object(metadata)) = definition.get_mut("metadata") {
        metadata.insert("annotations".into(), json!({ "helm.sh/resource-policy": "keep" }));
    }
    let yaml = serde_saphyr::to_string(&definition)?;
    Ok(format!("{{{{- if .Values.crds.install }}}}\n{yaml}{{{{- end }}}}\n"))
}

fn name_rule() -> Value {
    json!({
        "rule": format!(
            "self.metadata.name.size() <= {MAX_NAME} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
        ),
        "message": format!(
            "metadata.name must have at most {MAX_NAME} characters, of which the first is a lower-case letter and \
             the others are lower-case letters, digits or '-', since Services and pods are named after it"
        ),
    })
}

/// Removes the formats of Rust's integers, which the API server does not know and warns about, and writes whole numbers
/// as such.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                map.remove("format");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) => {
            let whole = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e9);
            if let Some(whole) = whole {
                #[allow(clippy::cast_possible_truncation, reason = "it is whole and small")]
                let whole = whole as i64;
                *value = json!(whole);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

    use super::*;

    #[test]
    fn the_definition_is_one_that_the_api_knows() {
        let crd: CustomResourceDefinition = serde_json::from_value(definition()).unwrap();
        assert_eq!(crd.metadata.name.as_deref(), Some("kvclusters.kvcluster.io"));
        assert_eq!(crd.spec.names.short_names, Some(vec!["kvc".into()]));
        assert_eq!(crd.spec.names.categories, Some(vec!["kv".into()]));
    }

    #[test]
    fn every_field_of_the_spec_is_described() {
        fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
            for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let path = format!("{path}.{name}");
                if field.get("description").is_none() {
                    missing.push(path.clone());
                }
                walk(&path, field, missing);
            }
        }
        let definition = definition();
        let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
        let mut missing = Vec::new();
        walk("spec", schema, &mut missing);
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn defaults_are_visible() {
        let definition = definition();
        let default = |path: &str| {
            definition
                .pointer(&format!(
                    "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/{path}/default"
                ))
                .cloned()
        };
        assert_eq!(default("replicasPerShard"), Some(json!(1)));
        assert_eq!(
            default("failover"),
            Some(json!({
                "downAfter": "2s", "onIsolation": "RefuseWrites", "onQuorumLoss": "Abort", "failback": "Never", "failbackAfter": "1m",
            }))
        );
        assert_eq!(default("replication/properties/topology/properties/type"), Some(json!("Star")));
        assert_eq!(default("storage/properties/volume/properties/retention"), Some(json!("Retain")));
    }

    /// The CRD file and the chart's template must be what this program prints.
    #[test]
    fn installed_definitions_do_not_drift() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let files = [
            ("crds/kvclusters.yaml", definition_yaml().unwrap()),
            ("charts/kvcluster/templates/crd.yaml", definition_template().unwrap()),
        ];
        for (file, printed) in files {
            let found = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            assert_eq!(found, printed, "{file} differs from the types: run `make crd`");
        }
    }
}
