//! Google's `Schema`, a part of OpenAPI's, as JSON Schema.
//!
//! Source: Google's API reference, "Schema": types in capitals, `nullable`, whole numbers as text,
//! `propertyOrdering` beside the properties.

use serde_json::{Map, Value};

/// The schema in JSON Schema's words. What it knows of anyway stays as it is.
pub fn to_json_schema(schema: Value) -> Value {
    let Value::Object(said) = schema else {
        return schema;
    };
    let mut written = Map::new();
    let mut nullable = false;
    for (name, value) in said {
        match &*name {
            "type" => {
                let word = match value {
                    Value::String(word) if word == "TYPE_UNSPECIFIED" => continue,
                    Value::String(word) => word.to_ascii_lowercase().into(),
                    other => other,
                };
                written.insert(name, word);
            }
            "nullable" => nullable = value == true,
            // The order is that in which the properties stand.
            "propertyOrdering" | "property_ordering" => {}
            // Of an enumeration: `enum`.
            "format" if value == "enum" => {}
            "properties" | "$defs" | "defs" => {
                let name = if name == "defs" { "$defs".into() } else { name };
                let value = match value {
                    Value::Object(all) => Value::Object(
                        all.into_iter()
                            .map(|(name, schema)| (name, to_json_schema(schema)))
                            .collect(),
                    ),
                    other => other,
                };
                written.insert(name, value);
            }
            "items" => {
                written.insert(name, to_json_schema(value));
            }
            "anyOf" | "any_of" => {
                let value = match value {
                    Value::Array(all) => all.into_iter().map(to_json_schema).collect(),
                    other => other,
                };
                written.insert("anyOf".into(), value);
            }
            "additionalProperties" | "additional_properties" => {
                written.insert("additionalProperties".into(), to_json_schema(value));
            }
            "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties"
            | "maxProperties" | "min_items" | "max_items" | "min_length" | "max_length"
            | "min_properties" | "max_properties" => {
                let number = value.as_str().and_then(|text| text.parse::<u64>().ok());
                written.insert(camel(&name), number.map_or(value, Value::from));
            }
            "example" => {
                written.insert("examples".into(), vec![value].into());
            }
            _ => {
                written.insert(name, value);
            }
        }
    }
    if nullable {
        or_null(&mut written);
    }
    Value::Object(written)
}

/// `null` is allowed, too.
fn or_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(words)) = schema.get_mut("enum")
        && !words.contains(&Value::Null)
    {
        words.push(Value::Null);
    }
    match schema.get_mut("type") {
        Some(word @ Value::String(_)) => {
            let said = word.take();
            *word = vec![said, "null".into()].into();
        }
        Some(_) => {}
        None => {
            if let Some(Value::Array(any)) = schema.get_mut("anyOf") {
                any.push(serde_json::json!({"type": "null"}));
            }
        }
    }
}

fn camel(name: &str) -> String {
    let mut written = String::with_capacity(name.len());
    let mut up = false;
    for it in name.chars() {
        match it {
            '_' => up = true,
            it if std::mem::take(&mut up) => written.push(it.to_ascii_uppercase()),
            it => written.push(it),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn googles_schema_is_said_in_json_schema() {
        let said = json!({
            "type": "OBJECT",
            "properties": {
                "type": {"type": "STRING", "nullable": true, "format": "enum", "enum": ["a"]},
                "all": {"type": "ARRAY", "min_items": "1", "items": {"type": "INTEGER"}},
                "any": {"anyOf": [{"type": "NUMBER"}], "nullable": true},
            },
            "propertyOrdering": ["type", "all"],
            "required": ["all"],
        });
        let wanted = json!({
            "type": "object",
            "properties": {
                "type": {"type": ["string", "null"], "enum": ["a", null]},
                "all": {"type": "array", "minItems": 1, "items": {"type": "integer"}},
                "any": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            },
            "required": ["all"],
        });
        assert_eq!(to_json_schema(said), wanted);
    }
}
