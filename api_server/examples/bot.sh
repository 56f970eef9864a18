#!/bin/sh
# A bot: it answers `ping` in a group with `pong`, once each. Needs curl and jq.
#
# sh bot.sh URL KEY USER GROUP        the key needs the scopes read and send

url=$1 key=$2 user=$3 group=$4 seen=0

api() {
    path=$1; shift
    curl -sSf -H "Authorization: Bearer $key" -H "Content-Type: application/json" "$@" "$url$path"
}

pings=".items | reverse[] | select(.msg_id > \$seen and .text == \"ping\" and .from != $user) | .msg_id"
while sleep 1; do
    for id in $(api "/v1/users/$user/messages?in_group=$group" | jq --argjson seen "$seen" "$pings"); do
        # After a restart the same messages are read again: the name makes it one answer.
        body="{\"from\": $user, \"to\": {\"group\": $group}, \"text\": \"pong\"}"
        api /v1/messages -H "Idempotency-Key: pong $group $id" -d "$body" >/dev/null || break
        seen=$id
    done
done
