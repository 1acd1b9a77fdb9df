//! Which role may call what: the one table. A call that is not in it is refused, so that a new one
//! must be thought of here.

use identity::Role;

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Everybody.
    All,
    /// Whoever has a certificate.
    Known,
    /// Holders of one of these roles.
    Roles(&'static [Role]),
}

const OPERATORS: Allowed = Allowed::Roles(&[Role::Operator]);
const READERS: Allowed = Allowed::Roles(&[Role::Operator, Role::Observer]);
const WORKERS: Allowed = Allowed::Roles(&[Role::Worker]);

const RULES: &[(&str, Allowed)] = &[
    ("/grpc.health.v1.Health/", Allowed::All),
    // Its token stands for a certificate.
    ("/starling.v1.Access/Enrol", Allowed::All),
    ("/starling.v1.Access/Renew", Allowed::Known),
    ("/starling.v1.Access/CreateToken", OPERATORS),
    ("/starling.v1.Access/ListIdentities", READERS),
    ("/starling.v1.Access/RevokeIdentity", OPERATORS),
    ("/starling.v1.Access/ReadAudit", READERS),
    ("/starling.v1.Fleet/Session", WORKERS),
    ("/starling.v1.Fleet/Fetch", WORKERS),
    ("/starling.v1.Fleet/Upload", WORKERS),
    ("/starling.v1.Operator/SubmitRun", OPERATORS),
    ("/starling.v1.Operator/ControlRun", OPERATORS),
    ("/starling.v1.Operator/ReleaseWorker", OPERATORS),
    ("/starling.v1.Operator/ListRuns", READERS),
    ("/starling.v1.Operator/ShowRun", READERS),
    ("/starling.v1.Operator/WatchRun", READERS),
    ("/starling.v1.Operator/ExportRun", READERS),
    ("/starling.v1.Operator/ListWorkers", READERS),
    ("/starling.v1.Operator/ReadLedgers", READERS),
    ("/starling.v1.Operator/ResetLedger", OPERATORS),
    ("/grpc.reflection.v1.ServerReflection/", Allowed::Known),
];

/// Who may call a path; `None`: nothing of that name is served.
pub(crate) fn allowed(path: &str) -> Option<Allowed> {
    RULES
        .iter()
        .find(|(rule, _)| if rule.ends_with('/') { path.starts_with(rule) } else { path == *rule })
        .map(|(_, allowed)| *allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn every_call_has_its_rule_and_every_rule_its_call() {
        // Peers have a table of their own.
        let own = |path: &String| !path.starts_with("/starling.v1.Peers/");
        let served: Vec<String> = proto::calls().into_iter().filter(own).collect();
        assert!(served.len() > 10, "{served:?}");
        for path in &served {
            let allowed = allowed(path).unwrap_or_else(|| panic!("{path} has no rule"));
            assert!(allowed != Allowed::All || path.ends_with("/Enrol"), "{path} is open to all");
        }
        for (rule, _) in RULES.iter().filter(|(rule, _)| rule.starts_with("/starling.")) {
            assert!(served.iter().any(|path| path == rule), "{rule} is not served");
        }
        assert_eq!(allowed("/starling.v1.Fleet/Other"), None);
        assert_eq!(allowed("/"), None);
    }
}
