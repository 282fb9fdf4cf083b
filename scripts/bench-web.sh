#!/usr/bin/env bash
# Measures the web page and refd with it: the longest task of the page while 200 connections a second come (limit 100 ms); refd's memory
# with the page open and 100,000 live connections (limit 250 MB); its idle CPU time (limit 1 % of a core). Root, about three minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
WEIR_BENCH=1 "${GO:-go}" test -count=1 -timeout 20m -v -run '^TestIntegrationWebPage$' ./internal/e2e
