#!/usr/bin/env bash
# Pack espeak-ng with its English and Korean voices (0.7 MB), for machines where it cannot be installed. Needs Debian and gcc.
#
#   bash tools/espeak_bundle.sh espeak.tar.gz
#   tar xzf espeak.tar.gz && . espeak/env.sh && espeak-ng -v ko --stdout "안녕하세요" > hello.wav
set -euo pipefail

out=$(realpath "${1:?give the archive to write}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -q espeak-ng libespeak-ng1 espeak-ng-data libsonic0
for package in *.deb; do dpkg -x "$package" root; done

libraries=$(dirname "$(find root -name libespeak-ng.so.1)")
data=$libraries/espeak-ng-data
mkdir -p espeak/lib espeak/espeak-ng-data/lang/gmw espeak/espeak-ng-data/voices
cp root/usr/bin/espeak-ng espeak/
cp -L "$libraries/libespeak-ng.so.1" "$libraries/libsonic.so.0" espeak/lib/
cp "$data"/phon* "$data/intonations" "$data/en_dict" "$data/ko_dict" espeak/espeak-ng-data/
cp "$data/lang/ko" espeak/espeak-ng-data/lang/
cp "$data"/lang/gmw/en* espeak/espeak-ng-data/lang/gmw/
cp -r "$data/voices/!v" espeak/espeak-ng-data/voices/

# libpcaudio plays sound, which --stdout never does, and would need the libraries of two sound servers.
cat > no_audio.c <<'C'
void *create_audio_device_object(const char *device, const char *name, const char *text) { return 0; }
int audio_object_open(void *o, int format, unsigned rate, unsigned char channels) { return -1; }
int audio_object_write(void *o, const void *data, unsigned long bytes) { return -1; }
int audio_object_drain(void *o) { return -1; }
int audio_object_flush(void *o) { return -1; }
void audio_object_close(void *o) {}
void audio_object_destroy(void *o) {}
const char *audio_object_strerror(void *o, int error) { return "sound cannot be played here"; }
C
gcc -shared -fPIC -w -Wl,-soname,libpcaudio.so.0 -o espeak/lib/libpcaudio.so.0 no_audio.c
cat > espeak/env.sh <<'S'
ESPEAK_DATA_PATH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export ESPEAK_DATA_PATH PATH="$ESPEAK_DATA_PATH:$PATH"
export LD_LIBRARY_PATH="$ESPEAK_DATA_PATH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
S
tar czf "$out" espeak
ls -l "$out"
