//! Placeholder until this session's first commit.
