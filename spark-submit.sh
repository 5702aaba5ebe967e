#!/usr/bin/env bash
# ./spark-submit.sh [spark-submit options] jobs/x.py [arguments]
#
# Sends a job with what it needs: the package as a wheel (conf/ is in it) and the jars. The workers must bring a Python with
# pandas, pyarrow and protobuf: PYSPARK_PYTHON names it. PIPELINE_CONF names a configuration folder of your own. Who gives
# --driver-java-options or --driver-class-path replaces ours: keep -Duser.timezone=UTC among them, and what
# `python -m pipeline.jars --first` prints.
#
# SIGTERM, Ctrl-C and a closed terminal end streaming queries after their running batch, a second one ends at once. Where the
# driver runs on the cluster (--deploy-mode cluster), and under a bare spark-submit, Spark ends with the first signal: use
# `pipeline stop` there.
set -euo pipefail

home=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$home/.venv/bin/python

usage() {
  echo "usage: spark-submit.sh [spark-submit options] jobs/x.py [arguments]" >&2
  echo "jobs: $(cd "$home" && echo jobs/*.py)" >&2
  exit 2
}

# The wheel, built only where the package is newer, and put in place by a rename. It is named .zip because Spark puts
# no .whl on the workers' path.
build_wheel() (
  built=$home/build/wheel/.built
  mkdir -p "$home/build"
  exec 9>"$home/build/.lock" # two jobs that are sent at the same time build it once
  flock 9
  if [ -e "$built" ] && [ -z "$(find "$home/src" "$home/conf" "$home/setup.py" "$home/pyproject.toml" \
    -newer "$built" -type f -not -path '*/__pycache__/*' -not -path '*.egg-info/*' -print -quit)" ]; then
    return
  fi
  echo "spark-submit.sh: building the wheel" >&2
  fresh=$(mktemp -d "$home/build/wheel.XXXXXX")
  touch "$fresh/.built"                          # before the build: what changes meanwhile is newer
  rm -rf "$home"/build/lib "$home"/build/bdist.* # or modules that are no more come along
  "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --wheel-dir "$fresh" "$home" >&2
  for file in "$fresh"/pipeline-*.whl; do mv "$file" "${file%.whl}.zip"; done
  rm -rf "$home/build/wheel"
  mv "$fresh" "$home/build/wheel"
)

[ $# -gt 0 ] || usage
if [ ! -x "$python" ]; then
  echo "spark-submit.sh: there is no environment in $home/.venv; run \`make install\` first" >&2
  exit 3
fi

build_wheel
wheel=$(echo "$home"/build/wheel/pipeline-*.zip)
jars=$("$python" -m pipeline.jars --list)
first=$("$python" -m pipeline.jars --first)
java_options="-Duser.timezone=UTC '-Dlog4j2.configurationFile=file:$home/src/pipeline/log4j2.properties'"

# A job named as in this folder is found from everywhere.
arguments=()
for argument in "$@"; do
  if [[ $argument == jobs/*.py && ! -e $argument && -e $home/$argument ]]; then argument=$home/$argument; fi
  arguments+=("$argument")
done

export PYSPARK_PYTHON=${PYSPARK_PYTHON:-$python}
export PYSPARK_DRIVER_PYTHON=${PYSPARK_DRIVER_PYTHON:-$python}
export PYTHONPATH=$wheel${PYTHONPATH:+:$PYTHONPATH} # keyed state begins in a Python that Spark starts here, without --py-files
unset SPARK_HOME # another Spark would not match the jars
submit=("$home/.venv/bin/spark-submit" --py-files "$wheel" --jars "$jars"
  --driver-java-options "$java_options" --driver-class-path "$first" "${arguments[@]}")
if [[ " ${arguments[*]} " =~ [[:space:]]--deploy-mode[[:space:]=]cluster[[:space:]] ]]; then exec "${submit[@]}"; fi

# Spark's JVM is the parent of our Python and ends everything at the first signal it meets. So it gets a process group of
# its own, which no terminal signals, and a signal to us becomes a file that Python looks for.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export _PIPELINE_STOP_FILE=$folder/stop
asked=0
ask() {
  asked=$((asked + 1))
  if [ "$asked" -eq 1 ]; then touch "$_PIPELINE_STOP_FILE"; else kill "-$1" -- "-$spark" 2>/dev/null || true; fi
}
set -m
"${submit[@]}" </dev/null &
spark=$!
set +m
trap 'ask TERM' TERM HUP
trap 'ask INT' INT
while kill -0 "$spark" 2>/dev/null; do
  wait "$spark" || true # a trapped signal ends the wait, not what is waited for
done
status=0
wait "$spark" || status=$?
exit "$status"
