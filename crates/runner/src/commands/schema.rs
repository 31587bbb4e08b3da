//! `runner schema`: a JSON Schema of pipeline files (draft 2020-12), made of the types that read them. An editor completes and underlines by it. What depends on
//! more than one place, such as whether a stage of a name is there, the runner alone knows.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use crate::Result;
use crate::kind::Kind;
use crate::resources::ResourcesTable;
use crate::retry::Retry;

/// The schema, as it is printed.
///
/// # Errors
/// It does not serialise.
pub(super) fn text(kinds: &BTreeMap<&'static str, Kind>) -> Result<String> {
    Ok(serde_json::to_string_pretty(&pipeline(kinds))? + "\n")
}

fn pipeline(kinds: &BTreeMap<&'static str, Kind>) -> Value {
    let mut generator = SchemaGenerator::default();
    let names: Vec<&str> = kinds.keys().copied().collect();
    let resources = generator.subschema_for::<ResourcesTable>().to_value();
    let mut stages = Map::new();
    let mut choices = Vec::new();
    for kind in kinds.values() {
        let name = format!("stage {}", kind.name);
        choices.push(json!({
            "if": { "properties": { "uses": { "const": kind.name } }, "required": ["uses"] },
            "then": { "$ref": format!("#/$defs/{}", name.replace(' ', "%20")) },
        }));
        stages.insert(name, stage(kind, &resources, &mut generator));
    }
    let mut definitions = stages;
    definitions.extend(generator.take_definitions(true));
    for definition in definitions.values_mut() {
        or_var(definition);
    }
    definitions.insert(
        "var".to_owned(),
        json!({
            "type": "string", "pattern": r"\$\{",
            "description": "the value of a var, `${name}`, or of the environment, `${env:NAME}`",
        }),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a pipeline of farthing",
        "type": "object",
        // A file that extends another may have less than the whole, of each table too.
        "if": { "required": ["extends"] },
        "then": {},
        "else": {
            "required": ["pipeline", "stage"],
            "properties": {
                "pipeline": { "required": ["name", "format"] },
                "stage": { "additionalProperties": { "required": ["uses"], "allOf": choices } },
            },
        },
        "additionalProperties": false,
        "properties": {
            "pipeline": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "name": { "type": "string", "description": "names the folder of its runs" },
                    "format": { "anyOf": [{ "const": 1 }, { "$ref": "#/$defs/var" }], "description": "the version of the grammar" },
                    "seed": { "anyOf": [{ "type": "integer", "minimum": 0 }, { "$ref": "#/$defs/var" }], "description": "what everything random follows from" },
                    "dollars_per_hour": { "anyOf": [{ "type": "number", "minimum": 0 }, { "$ref": "#/$defs/var" }], "description": "what an hour of the machine costs, for the report" },
                },
            },
            "extends": { "type": "string", "description": "a pipeline file that this one is laid over, key by key" },
            "vars": { "type": "object", "description": "values that `${name}` stands for" },
            "stage": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {
                    "type": "object",
                    "properties": { "uses": { "enum": names } },
                },
            },
        },
        "$defs": definitions,
    })
}

/// The table of a stage: the runner's keys and those of its kind.
fn stage(kind: &Kind, resources: &Value, generator: &mut SchemaGenerator) -> Value {
    let config = (kind.config_schema)(generator).to_value();
    let exec = (kind.exec_schema)(generator).to_value();
    let empty = Map::new();
    let mut properties = config["properties"].as_object().unwrap_or(&empty).clone();
    let ports = |required: bool| {
        let named = kind.inputs.iter().filter(move |p| !required || !p.optional);
        named.map(|port| port.name)
    };
    let inputs: Map<String, Value> = kind
        .inputs
        .iter()
        .map(|port| {
            let about = format!("`STAGE.PORT` with {}", port.kind);
            (port.name.to_owned(), json!({ "type": "string", "description": about }))
        })
        .collect();
    let mut own = json!({
        "uses": { "const": kind.name, "description": kind.about },
        "inputs": {
            "type": "object", "additionalProperties": false, "properties": inputs,
            "required": ports(true).collect::<Vec<_>>(),
            "description": "what the stage reads: port = \"STAGE.PORT\"",
        },
        "needs": { "type": "array", "items": { "type": "string" }, "description": "stages to run first" },
        "matrix": { "type": "object", "description": "axes along which the stage is multiplied" },
        "resources": resources,
        "exec": exec,
        "retry": generator.subschema_for::<Retry>().to_value(),
        "skip": { "type": "boolean", "description": "leave the stage out of every run" },
        "expect": { "type": "object", "description": "bounds on figures of its inputs: \"PORT.FIGURE\" = { min = …, max = … }" },
    });
    if kind.uses_seed {
        own["seed"] =
            json!({ "type": "integer", "minimum": 0, "description": "in place of the pipeline's" });
    }
    if let Value::Object(own) = own {
        properties.extend(own);
    }
    let mut required: Vec<Value> = config["required"].as_array().cloned().unwrap_or_default();
    if ports(true).next().is_some() {
        required.push("inputs".into());
    }
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        // The variants of a matrix may bring what the table lacks.
        "anyOf": [{ "required": required }, { "required": ["matrix"] }],
    })
}

/// Lets every value be a var, and takes out what only Rust means.
fn or_var(schema: &mut Value) {
    let Value::Object(keys) = schema else { return };
    keys.remove("format");
    // Of keys that are not written back: a matter of ours.
    keys.remove("writeOnly");
    for (key, inner) in keys.iter_mut() {
        match key.as_str() {
            "properties" | "$defs" | "patternProperties" => {
                for property in inner.as_object_mut().into_iter().flat_map(Map::values_mut) {
                    or_var(property);
                    if !property["properties"].is_object() && property.get("const").is_none() {
                        *property = with_var(property);
                    }
                }
            }
            "items" | "additionalProperties" => or_var(inner),
            "anyOf" | "oneOf" | "allOf" => {
                inner.as_array_mut().into_iter().flatten().for_each(or_var);
            }
            _ => {}
        }
    }
}

fn with_var(schema: &Value) -> Value {
    let mut out = Map::new();
    for key in ["description", "default"] {
        out.extend(schema.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    out.insert("anyOf".to_owned(), json!([schema, { "$ref": "#/$defs/var" }]));
    Value::Object(out)
}
