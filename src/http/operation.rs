//! An operation, as refusals tell it.

use serde::Serialize;

use crate::operation::OperationInfo;

/// The operation that is in the way; of one that leases a key only its name.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "axum", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "axum", schemars(rename = "OperationInTheWay"))]
pub(super) struct Operation {
    id: String,
    kind: String,
    #[serde(flatten)]
    state: Option<State>,
}

/// How far it has come.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "axum", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "axum", schemars(rename = "OperationState"))]
struct State {
    scope: String,
    status: &'static str,
    progress: Option<u8>,
    started_by: Option<String>,
    started_at: Option<String>,
    expires_at: Option<String>,
}

impl Operation {
    pub(super) fn new(info: &OperationInfo) -> Operation {
        let time = |time| humantime::format_rfc3339_millis(time).to_string();
        let state = State {
            scope: info.scope().to_owned(),
            status: info.status().as_str(),
            progress: info.progress(),
            started_by: info.started_by().map(str::to_owned),
            started_at: info.started_at().map(time),
            expires_at: info.expires_at().map(time),
        };
        Operation { state: Some(state), ..Operation::named(info.kind(), info.id()) }
    }

    pub(super) fn named(kind: &str, id: &str) -> Operation {
        Operation { id: id.to_owned(), kind: kind.to_owned(), state: None }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn kind(&self) -> &str {
        &self.kind
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ::http::{Response, StatusCode, header};

    use crate::http::{Conditions, Problem, StaleStatus};

    #[test]
    fn g4_an_operation_in_the_way_is_told_on_the_wire() {
        let start = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_793_064_600);
        let clock = Arc::new(crate::testing::ManualClock::new(start));
        let store = crate::Store::builder().clock(clock.clone()).in_memory();
        let transfers = store.operations("transfer");
        let first = transfers.begin("user/42").by("photos").commit().unwrap();
        clock.advance(Duration::from_secs(6));
        first.progress(75).commit().unwrap();
        let refused = transfers.begin("user/42").commit().unwrap_err();
        let problem = Problem::from_error(&refused, &Conditions::default(), StaleStatus::Conflict);
        let response = Response::from(problem);
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let expected = [
            r#"{"type":"urn:ifmatch:in_progress","title":"Another operation is in progress","#,
            r#""status":409,"detail":"scope user/42 is taken: transfer ID has been in progress "#,
            r#"for 6 s, at 75 %, started by photos; wait for it, or queue behind it","#,
            r#""reason":"in_progress","operation":{"id":"ID","kind":"transfer","#,
            r#""scope":"user/42","status":"in_progress","progress":75,"started_by":"photos","#,
            r#""started_at":"2026-10-27T01:30:00.000Z","expires_at":"2026-10-27T01:31:06.000Z"},"#,
            r#""retry":{"advice":"after","after_ms":2000}}"#,
        ];
        assert_eq!(*response.body(), expected.concat().replace("ID", first.id()));
    }

    #[test]
    fn g4_who_meets_a_lease_of_an_operation_is_told_of_that() {
        let store = crate::Store::in_memory();
        let rooms: crate::Collection<String, u32> = store.collection("rooms").unwrap();
        let job = store.operations("cleaning").begin("house").commit().unwrap();
        job.lease(&rooms, "r1").commit().unwrap();
        let refused = rooms.create("r1", 1).commit().unwrap_err();
        let problem = Problem::from_error(&refused, &Conditions::default(), StaleStatus::Conflict);
        let body = Response::from(problem).into_body();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let operation = serde_json::json!({ "id": job.id(), "kind": "cleaning" });
        assert_eq!((&body["key"], &body["operation"]), (&"r1".into(), &operation));
    }
}
