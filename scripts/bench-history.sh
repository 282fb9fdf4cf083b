#!/usr/bin/env bash
# Measures the history on disk (pkg/connstore/sqlitestore): a million connections written, the size of the database, how long pages of every
# kind take, what it takes of memory; then a writer of 2,000 connections a second that is killed 50 times. About two minutes.
#
#   scripts/bench-history.sh [-n CONNECTIONS] [-k KILLS]
set -euo pipefail
cd "$(dirname "$0")/.."

rows=1000000 kills=50
while getopts n:k: flag; do
	case $flag in
	n) rows=$OPTARG ;;
	k) kills=$OPTARG ;;
	*) exit 2 ;;
	esac
done
WEIR_HISTORY_ROWS=$rows "${GO:-go}" test -count=1 -timeout 30m -v -run '^TestScale$' ./pkg/connstore/sqlitestore
WEIR_HISTORY_KILLS=$kills "${GO:-go}" test -count=1 -timeout 30m -v -run '^TestKill$' ./pkg/connstore/sqlitestore
"${GO:-go}" test -run '^$' -bench Note -benchmem ./pkg/connstore/sqlitestore
