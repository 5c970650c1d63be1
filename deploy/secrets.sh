#!/usr/bin/env bash
# secrets.sh [FILE [NAME ...]]: makes the secrets that neither the environment nor the file (.env) has, and adds them to the file,
# which only its owner may read.
set -euo pipefail
umask 077
file=${1:-.env}
names=("${@:2}")
if [ ${#names[@]} = 0 ]; then
  names=(MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY PGPASSWORD AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY)
fi

if [ -e "$file" ] && [ "$(stat --format %a "$file")" != 600 ]; then
  echo "error: $file holds secrets, and others may read it; run \`chmod 600 $file\`" >&2
  exit 1
fi
trap 'rm -f "$file.part"' EXIT
if [ -e "$file" ]; then cat "$file"; fi >"$file.part"
for name in "${names[@]}"; do
  if [ -z "${!name:-}" ] && ! grep -q "^$name=" "$file.part"; then
    echo "$name=$(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')" >>"$file.part"
  fi
done
mv "$file.part" "$file"
