//! The router's own description: OpenAPI 3.1, made of what it takes and gives, refusals included.

mod endpoint;
mod parameter;
mod paths;

use ::axum::body::Bytes;
use ::axum::response::Response;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use self::endpoint::{Endpoint, Refusals};
use super::service::Service;
use super::{RouterOptions, response};

/// Patterns of what the router takes (ECMA-262, as JSON Schema has them).
pub(super) const NAME: &str = "^[a-z0-9_-]{1,64}$";
pub(super) const KEY: &str = r"^(?!\.{1,2}$)[^\u0000-\u001f\u007f-\u009f]+$";
pub(super) const OPERATION_ID: &str = "^[0-9A-Z]{22}$";
pub(super) const LINE: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
pub(super) const TAG: &str = r#"^(W/)?"[!#-~]*"$"#;
pub(super) const TAGS: &str = r#"^(W/)?"[!#-~]*"(, (W/)?"[!#-~]*")*$"#;
pub(super) const POINTER: &str = "^(/([^/~]|~0|~1)*)*$";
const CURSOR: &str = "^[a-p][a-z2-7]{12}-(0|[1-9][0-9]{0,18})$";

/// Schemas of what is read and of what is written, under one set of names.
struct Schemas {
    taken: SchemaGenerator,
    given: SchemaGenerator,
}

impl Schemas {
    fn new() -> Schemas {
        let settings = SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = "/components/schemas".into());
        Schemas {
            taken: settings.clone().for_deserialize().into_generator(),
            given: settings.for_serialize().into_generator(),
        }
    }

    /// Of a body that is sent.
    fn taken<T: JsonSchema>(&mut self) -> Schema {
        self.taken.subschema_for::<T>()
    }

    /// Of a body that is answered.
    fn given<T: JsonSchema>(&mut self) -> Schema {
        self.given.subschema_for::<T>()
    }

    fn definitions(mut self) -> Map<String, Value> {
        let mut all = self.taken.take_definitions(true);
        all.append(&mut self.given.take_definitions(true));
        all
    }
}

impl Service {
    /// `GET /openapi.json`. `path` is where that is.
    pub(super) fn openapi(&self, path: &str) -> Response {
        let server = path.strip_suffix("/openapi.json").filter(|server| !server.is_empty());
        let server = server.unwrap_or("/");
        let make = || Bytes::from(document(server, &self.options).to_string());
        // A router is hardly ever at two places.
        let (place, made) = self.described.get_or_init(|| (server.to_owned(), make()));
        response::json(if place == server { made.clone() } else { make() })
    }
}

fn document(server: &str, options: &RouterOptions) -> Value {
    let has_tokens = options.tokens.is_some();
    let mut schemas = Schemas::new();
    let refusals = Refusals::of(&*options.dialect, &mut schemas);
    let mut paths = Map::new();
    for endpoint in paths::endpoints(&mut schemas) {
        let endpoint = if has_tokens { endpoint.for_holders() } else { endpoint };
        let Endpoint { path, method, .. } = endpoint;
        let operations = paths.entry(path).or_insert_with(|| json!({}));
        if let Some(operations) = operations.as_object_mut() {
            if method == "get" {
                operations.insert("head".to_owned(), endpoint.without_bodies().describe(&refusals));
            }
            operations.insert(method.to_owned(), endpoint.describe(&refusals));
        }
    }
    let (security, schemes) = match has_tokens {
        true => {
            (json!([{ "token": [] }]), json!({ "token": { "type": "http", "scheme": "bearer" } }))
        }
        false => (json!([]), json!({})),
    };
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ifmatch",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Documents with versions, written under conditions. A write that lost \
                            a race is told what it lost to, and what to do next.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": server }],
        "security": security,
        "paths": paths,
        "components": {
            "schemas": schemas.definitions(),
            "parameters": parameter::components(),
            "headers": endpoint::header_components(),
            "securitySchemes": schemes,
        },
    })
}
