//! Real clusters under test.
