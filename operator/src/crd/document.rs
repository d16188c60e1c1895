//! Reads a KvCluster from a file, as strictly as the API server with field validation does.

use super::KvCluster;

/// Why a text is no KvCluster.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The text is neither YAML nor JSON.
    #[error("neither YAML nor JSON: {0}")]
    Syntax(#[from] serde_saphyr::Error),
    /// It is another kind of object.
    #[error("expected apiVersion kvcluster.io/v1alpha1 and kind KvCluster, not {api_version:?} and {kind:?}")]
    OtherKind {
        /// What it says under `apiVersion`.
        api_version: String,
        /// What it says under `kind`.
        kind: String,
    },
    /// A field has the wrong type, or is missing.
    #[error("{field}: {reason}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// Fields that a KvCluster does not have; ignoring them would hide a misspelt one.
    #[error("unknown field: {}", .0.join(", "))]
    UnknownFields(Vec<String>),
}

/// Reads a KvCluster from YAML or JSON.
///
/// # Errors
/// If the text is no KvCluster, or has fields that a KvCluster does not have.
pub fn read(text: &str) -> Result<KvCluster, ReadError> {
    let value: serde_json::Value = serde_saphyr::from_str(text)?;
    let word =
        |field: &str| value.get(field).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (word("apiVersion"), word("kind"));
    if api_version != "kvcluster.io/v1alpha1" || kind != "KvCluster" {
        return Err(ReadError::OtherKind { api_version, kind });
    }
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| {
        let path = path.to_string().replace(".?", "");
        // Checked above; the typed object has no use for them.
        if !["apiVersion", "kind"].contains(&path.as_str()) {
            unknown.push(path);
        }
    };
    let cluster: KvCluster =
        serde_path_to_error::deserialize(serde_ignored::Deserializer::new(value, &mut note)).map_err(
            |error| ReadError::Field { field: error.path().to_string(), reason: error.inner().to_string() },
        )?;
    if unknown.is_empty() { Ok(cluster) } else { Err(ReadError::UnknownFields(unknown)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(spec: &str) -> String {
        read(&format!(
            "{{apiVersion: kvcluster.io/v1alpha1, kind: KvCluster, metadata: {{name: a}}, spec: {spec}}}"
        ))
        .unwrap_err()
        .to_string()
    }

    #[test]
    fn errors_name_the_field() {
        assert_eq!(error("{shards: 1, replica: 2}"), "unknown field: spec.replica");
        assert_eq!(
            error("{shards: 1, storage: {volume: {size: 1Gi, class: x}}}"),
            "unknown field: spec.storage.volume.class"
        );
        let text = error("{shards: many}");
        assert!(text.starts_with("spec.shards: "), "{text}");
        let text = error("{shards: 1, config: {rdbcompression: yes}}");
        assert!(text.starts_with("spec.config.rdbcompression: ") && text.contains("quotes"), "{text}");
        let text = error("{}");
        assert!(text.contains("shards"), "{text}");
    }

    #[test]
    fn other_objects_are_told_apart() {
        let text = read("{apiVersion: v1, kind: Pod}").unwrap_err().to_string();
        assert!(text.contains("Pod"), "{text}");
    }

    #[test]
    fn json_and_yaml_are_read() {
        let json = r#"{"apiVersion":"kvcluster.io/v1alpha1","kind":"KvCluster","metadata":{"name":"a"},"spec":{"shards":2}}"#;
        let yaml = "apiVersion: kvcluster.io/v1alpha1\nkind: KvCluster\nmetadata:\n  name: a\nspec:\n  shards: 2\n  config:\n    maxclients: 100\n    maxmemory-policy: noeviction\n";
        assert_eq!(read(json).unwrap().spec.shards, 2);
        assert_eq!(read(yaml).unwrap().spec.config.len(), 2);
    }
}
