#!/bin/sh
# Says the time every second. Ends on SIGINT and SIGTERM.
trap 'echo "bye"; exit 0' INT TERM
while true; do
  date '+it is %H:%M:%S'
  sleep 1 &
  wait $!
done
