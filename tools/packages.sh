#!/bin/sh
# Installs the Debian packages that a list names: one a line, then `#` and what it is for.
#
# Packages that are there already are left alone, and no service of this machine is started or stopped: while apt works,
# Debian's own switch (policy-rc.d) says no, and it is put back afterwards. Usage: tools/packages.sh LIST

list=${1:?usage: tools/packages.sh LIST}
policy=/usr/sbin/policy-rc.d

if ! command -v dpkg-query >/dev/null; then
    echo "$list: this is no Debian; install by your own means what is missing of:" >&2
    grep -v '^#' "$list" >&2
    exit 0
fi

wanted=
while read -r package _ why; do
    case $package in '' | '#'*) continue ;; esac
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)
    [ "$state" = installed ] && continue
    [ -z "$wanted" ] && echo "Debian packages to install:"
    printf '  %-18s %s\n' "$package" "$why"
    wanted="$wanted $package"
done <"$list"
[ -z "$wanted" ] && exit 0

# needrestart, where it is installed, would restart services after apt.
install='set -e
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
policy=$1
shift
if [ -e "$policy" ]; then
    if "$policy" any start >/dev/null 2>&1; then code=0; else code=$?; fi
    if [ "$code" -ne 101 ]; then
        echo "$policy exists and may allow services to start; install these yourself: $*" >&2
        exit 1
    fi
else
    trap "rm -f $policy" EXIT
    trap "exit 1" HUP INT TERM
    printf "#!/bin/sh\nexit 101\n" >"$policy"
    chmod 755 "$policy"
fi
apt-get -q update
apt-get -q install --yes --no-install-recommends "$@"'

if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null; then
    as_root=sudo
    echo "sudo is used for this, and for nothing else."
else
    echo "neither root nor sudo: as root, run apt-get install$wanted" >&2
    exit 1
fi
# shellcheck disable=SC2086 # a list of words
$as_root sh -c "$install" packages "$policy" $wanted
