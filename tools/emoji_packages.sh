#!/bin/sh
# Download npm packages and unpack them into a folder each, unless they are there: emoji_packages.sh FOLDER NAME@VERSION …
set -eu
folder=$1
shift
mkdir -p "$folder"
for package in "$@"; do
  name=${package%@*}
  [ -d "$folder/$name" ] && continue
  archive=$(cd "$folder" && npm pack --silent "$package")
  mkdir -p "$folder/$name.partial"
  tar -xzf "$folder/$archive" -C "$folder/$name.partial" --strip-components 1
  mv "$folder/$name.partial" "$folder/$name"
  rm "$folder/$archive"
done
